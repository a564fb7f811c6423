"""Replies from a recording: a cache, or a file exported from one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wfr.backends.base import BackendConfigError, Completion, OperatorRequest
from wfr.backends.cache import Cache, Entry, request_fields
from wfr.executor_config import CacheConfig

_SHOWN = 200
_DATABASE = "cache.db"


class Recorded:
    """Answers what was recorded, whoever had answered it; a miss ends the run."""

    def __init__(self, name: str, entries: Iterable[Entry], origin: str = "the recording") -> None:
        """Keep all entries in memory; `origin` names them in errors."""
        self.name = name
        self._origin = origin
        self._replies = {_key(entry.request): entry.completion for entry in entries}

    async def complete(self, request: OperatorRequest) -> Completion:
        """Look one request up; raises BackendConfigError where it was never recorded."""
        completion = self._replies.get(_key(request_fields(request)))
        if completion is None:
            raise BackendConfigError(
                f"executor backend {self.name!r}: {self._origin} ({len(self._replies)} replies) "
                f"holds no reply to {request.operator}: {request.prompt[:_SHOWN]!r}. Record a run "
                "with the same tasks, seed and director, or choose another backend."
            )
        return completion


def read_recording(name: str, path: str) -> Recorded:
    """The recording at `path`: an exported file, a cache's directory, or a run's with its cache.

    Raises:
        BackendConfigError: there is none, or a line of it is no entry.
    """
    return Recorded(name, _entries(Path(path)), path)


def export(directory: Path, target: Path) -> int:
    """Write the entries of a cache as JSON lines for `read_recording`; returns their count.

    Raises:
        BackendConfigError: `directory` is no cache.
    """
    temporary = target.with_name(f".{target.name}.part")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for entry in _cached(directory):
            file.write(entry.text() + "\n")
            count += 1
    temporary.rename(target)
    return count


def _entries(path: Path) -> Iterator[Entry]:
    if path.is_file():
        return _lines(path)
    for directory in (path, path / "cache"):
        if (directory / _DATABASE).exists():
            return _cached(directory)
    raise BackendConfigError(
        f"executor: {str(path)!r} holds no recording; name a file that `wfr cache` wrote, "
        f"or the directory of a cache ({_DATABASE}) or of a run with one"
    )


def _cached(directory: Path) -> Iterator[Entry]:
    cache = Cache(CacheConfig(dir=str(directory), read_only=True), directory)
    try:
        for _, entry in cache.entries():
            yield entry
    finally:
        cache.close()


def _lines(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield Entry.of(line)
            except ValueError as error:
                raise BackendConfigError(f"{path}, line {number}: {error}") from None


def _key(request: Mapping[str, Any]) -> bytes:
    text = json.dumps(request, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()
