"""Rejection sampling: of what a journal holds, keep the episodes that were rewarded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wfr.config import ConfigError
from wfr.recording import read_batches
from wfr.schema import from_batch
from wfr.trajectory import Trajectory


def rewarded(path: str | Path, min_reward: float) -> list[Trajectory]:
    """Scored episodes with at least this reward, of a run directory or a journal.

    Episodes with the same tokens are kept once: an answer that was found often is no better.

    Raises:
        ConfigError: there is no journal, or it has no such episode; the text says what it has.
    """
    journal = Path(path) / "journal"
    journal = journal if journal.is_dir() else Path(path)
    if not journal.is_dir():
        raise ConfigError(f"{path}: neither a run directory nor a journal")
    kept: dict[bytes, Trajectory] = {}
    rewards: list[float] = []
    for trajectory in _scored(journal):
        rewards.append(trajectory.reward)
        if trajectory.reward >= min_reward and trajectory.policy_tokens:
            kept.setdefault(trajectory.tokens.tobytes(), trajectory)
    if not kept:
        best = f"the best of {len(rewards)} has {max(rewards):g}" if rewards else "it has none"
        raise ConfigError(
            f"{path}: no scored episode has a reward of at least {min_reward}; {best}"
        )
    return list(kept.values())


def _scored(journal: Path) -> Iterator[Trajectory]:
    for batch in read_batches(journal):
        yield from from_batch(batch).scored
