"""Indexing a run's corpus before its workers start, so that a person sees how it goes."""

from __future__ import annotations

import time
from collections.abc import Callable

from wfr.config import Config
from wfr.retrieval.disk_index import open_index


def index_corpus(config: Config, say: Callable[[str], None]) -> None:
    """Build the index of `environment.search.corpus`, if there is one and it is not built yet.

    Raises:
        FormatError: the corpus cannot be read, or holds no passage.
    """
    search = config.environment.search
    if search.corpus is None:
        return
    started, told = time.monotonic(), 0.0

    def progress(what: str, done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _EVERY_S or what != "reading passages":
            told = now
            say(f"search: {what}: {done:,} ({now - started:.0f} s)")

    index = open_index(search.corpus, search.index_dir, progress)
    skipped = index.meta["skipped"]
    left_out = f"; {skipped} rows left out: {index.meta['first_skipped']}" if skipped else ""
    say(f"search: {len(index):,} passages of {search.corpus}{left_out}")


_EVERY_S = 5.0
