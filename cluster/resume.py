"""Resuming: which checkpoint a run goes on from, and what else its directory says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.checkpoint_store import CheckpointStore, StoreError
from cluster.retention import checkpoints
from wfr.checkpoint_directory import TRAINING
from wfr.config import Config
from wfr.history import History, HistoryError, read_history
from wfr.recovery import Recovery, RecoveryError, ledger_path, recover


@dataclasses.dataclass(frozen=True, slots=True)
class Resumption:
    """What a resumed run goes on with.

    Attributes:
        recovery: what checkpoint, ledger and journal hold together.
        checkpoint: the directory that the learner goes on from; none: the director it began with.
        evaluated: the evaluation before training, if it had been made.
        later: those since then, the best version among them is known again.
        reported: the last version whose step is in `metrics.jsonl`.
    """

    recovery: Recovery
    checkpoint: Path | None
    evaluated: dict[str, Any] | None
    later: list[dict[str, Any]]
    reported: int


def fetch(config: Config, note: Callable[[str], None]) -> None:
    """Bring back a run whose directory is gone from `checkpoints.url`, if it is there.

    Raises:
        RecoveryError: there is a copy, and it is damaged.
    """
    url, run_dir = config.checkpoints.url, config.run_dir.resolve()
    if url is None or (run_dir / "ledger").exists():
        return
    store = CheckpointStore(url, config.run.name)
    versions = store.versions()
    if not versions:
        return
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    note(f"the run directory is gone: fetching {store.url}/{versions[-1]}")
    try:
        store.fetch(run_dir, versions[-1], config.buffer.max_lag, config.buffer.shards)
    except StoreError as error:
        raise RecoveryError(f"{error}; {error.remedy}") from None


def find(config: Config, run_dir: Path) -> Resumption | None:
    """What there is to go on with; None where the run had not begun to sample.

    Raises:
        RecoveryError: there is something, but it does not suffice.
    """
    shards = config.buffer.shards
    if not any(_began(run_dir, config.buffer.max_lag, s, shards) for s in range(shards)):
        return None
    checkpoint = newest_state(run_dir)
    recovery = recover(
        run_dir,
        max_lag=config.buffer.max_lag,
        shards=shards,
        checkpoint=int(checkpoint.name) if checkpoint else 0,
    )
    _forget_turns(run_dir, recovery)
    records = _records(run_dir / "metrics.jsonl")
    evaluated = [record for record in records if record["kind"] == "eval"]
    reported = max((record["version"] for record in records if record["kind"] == "step"), default=0)
    first = evaluated[0] if evaluated else None
    return Resumption(recovery, checkpoint, first, evaluated[1:], reported)


def newest_state(run_dir: Path) -> Path | None:
    """The newest checkpoint with the state that training goes on from."""
    found = [p for p in checkpoints(run_dir) if (p / TRAINING).is_dir()]
    return found[-1] if found else None


def _began(run_dir: Path, max_lag: int, shard: int, shards: int) -> bool:
    path, history = ledger_path(run_dir, shard), History(max_lag, shard, shards)
    if not path.exists():
        return False
    try:
        read_history(path, history)
    except HistoryError as error:
        raise RecoveryError(str(error)) from None
    return bool(history.groups)


def _forget_turns(run_dir: Path, recovery: Recovery) -> None:
    """Turns of groups that nobody will go on with: they are lost, or in the journal."""
    wanted = {str(group) for shard in recovery.shards for group in shard.state["in_flight"]}
    wanted -= {str(group) for shard in recovery.shards for group, _, _ in shard.finished}
    for path in (run_dir / "turns").glob("*.jsonl"):
        if path.stem not in wanted:
            path.unlink()


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    return list(map(json.loads, lines))
