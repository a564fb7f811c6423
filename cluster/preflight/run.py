"""Is what the run reads and writes in order: its tasks and its directory?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.preflight.check import Check
from wfr.config import Config
from wfr.operators.library import LibraryError, pool_names
from wfr.retrieval.passages import Skipped, passages
from wfr.tasks.registry import make_source
from wfr.tasks.source import TaskSource

_SHOWN = 6
"""Differing keys that a message lists."""


def task_check(config: Config) -> Check:
    """The tasks load, and some are left to learn from and to decide by."""
    try:
        source = make_source(config)
        train, held_out = len(source.train()), len(source.held_out())
    except (OSError, ValueError) as error:
        ok, found = False, str(error)
    else:
        ok = train > 0 and held_out > 0
        found = f"{train} to learn from, {held_out} held out{_left_out(source)}"
    return Check(
        "tasks",
        ok,
        found,
        "set tasks.path and tasks.format to a benchmark's file, or tasks.held_out",
        "tasks",
    )


def operator_check(config: Config) -> Check:
    """Every operator of the pool is there, a user's own included, and is consistent."""
    try:
        names = pool_names(config.environment.pool)
    except LibraryError as error:
        ok, found = False, str(error)
    else:
        ok, found = True, ", ".join(names)
    return Check(
        "operators",
        ok,
        found,
        "in environment.pool name a preset, or operators as the message says",
        "environment.pool",
    )


def corpus_check(config: Config) -> Check:
    """The corpus that Search is to search holds passages; the first one is read."""
    corpus = config.environment.search.corpus
    if corpus is None:
        return Check("corpus", ok=True, detail="the tasks' own passages")
    skipped = Skipped()
    try:
        first = next(passages(corpus, skipped), None)
    except (OSError, ValueError) as error:
        ok, found = False, str(error)
    else:
        ok = first is not None
        found = f"{corpus}" if ok else f"{corpus}: holds no passage; {skipped.first}"
    return Check(
        "corpus",
        ok,
        found,
        "set environment.search.corpus to a file of passages (`text` or `contents`, `title`)",
    )


def _left_out(source: TaskSource) -> str:
    """How many rows of a file do not fit its format, and the first of them."""
    faults = getattr(source, "faults", ())
    return f"; {len(faults)} rows left out, the first: {faults[0]}" if faults else ""


def store_check(config: Config) -> Iterator[Check]:
    """The second place of checkpoints, if there is one, can be written."""
    from cluster.checkpoint_store import CheckpointStore, StoreError

    if config.checkpoints.url is None:
        return
    try:
        store = CheckpointStore(config.checkpoints.url, config.run.name)
        store.probe()
    except StoreError as error:
        detail, remedy, ok = f"checkpoints.url={error}", error.remedy, False
    else:
        detail, remedy, ok = store.url, "", True
    yield Check("checkpoint store", ok, detail, remedy, "checkpoints.url")


def directory_check(config: Config, *, overwrite: bool = False, resume: bool = False) -> Check:
    """The run directory is new, holds this very run, or may be replaced.

    A run that is resumed may have other learner ranks than before, and keep other checkpoints.
    """
    fault = (
        None
        if overwrite
        else _foreign_run(
            config.run_dir, json.loads(config.model_dump_json()), _MAY_CHANGE if resume else ()
        )
    )
    return Check(
        "run directory",
        fault is None,
        f"{config.run_dir}: {fault or 'no other run in it'}",
        "choose another run.name, or replace the old run with --overwrite",
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ, as `section.key: old, now new`."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r}, now {after!r}")
    return found


_MAY_CHANGE = (
    *("learner.ranks", "learner.zero_stage", "learner.offload_optimizer"),
    *("learner.offload_parameters", "train.checkpoint_every", "train.keep_states", "checkpoints"),
)
"""Keys, or sections of keys, that a resumed run may have other values of."""


def _foreign_run(
    directory: Path, config: Mapping[str, Any], may_change: Sequence[str]
) -> str | None:
    """Why `directory` is not ours: what in it differs from the resolved configuration."""
    if not directory.exists():
        return None
    if not directory.is_dir():
        return "is a file"
    saved = directory / "config.json"
    if not saved.exists():
        return "holds files, but no run" if any(directory.iterdir()) else None
    try:
        changed = differences(json.loads(saved.read_text(encoding="utf-8")), config)
    except (OSError, ValueError) as error:
        return f"its config.json cannot be read: {error}"
    changed = [text for text in changed if not _within(text.partition(":")[0], may_change)]
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return f"holds another run ({'; '.join(changed[:_SHOWN])}{more})" if changed else None


def _within(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
