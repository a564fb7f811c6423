"""Groups that a step could not be taken on: booked, recorded, and too many of them end the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wfr.soundness import Refusal

_REMEDIES: Mapping[str, str] = {
    "not_finite": "Training has diverged: lower learner.lr or learner.grad_clip, tighten "
    "objective.clip_high, or start from an earlier checkpoint.",
    "invalid": "Records are damaged where they are made: see the samplers' logs.",
    "masked": "Everything is too stale or too far from the sampler: raise objective.max_turn_lag, "
    "widen objective.rejection_low and rejection_high, or lower buffer.max_lag.",
    "zero_variance": "All siblings get the same reward: choose easier or harder tasks, a larger "
    "rollout.group_size, or objective.zero_variance: keep.",
}


class RepeatedRefusalError(RuntimeError):
    """Batch after batch cannot be trained on; the text says why and what to do."""


class Refusals:
    """What was refused so far."""

    def __init__(self, limit: int, record: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Stop after `limit` batches in a row; `record` gets each refusal as it happens."""
        self._limit = limit
        self._record = record
        self._in_a_row = 0
        self.groups: Counter[str] = Counter()

    def none(self) -> None:
        """A batch was trained on whole."""
        self._in_a_row = 0

    def add(self, version: int, refusals: Sequence[Refusal]) -> str:
        """Note what a batch lost; returns it in a line.

        Raises:
            RepeatedRefusalError: it was the last of too many in a row.
        """
        self._in_a_row += 1
        self.groups.update(refusal.reason for refusal in refusals)
        details = {r.group_id: f"{r.reason}: {r.detail}" for r in refusals}
        values = {"version": version, "groups": details, "groups/refused": dict(self.groups)}
        self._record("refused", values)
        last = refusals[-1]
        line = f"{len(refusals)} groups of version {version} refused, {last.reason}: {last.detail}"
        if self._in_a_row >= self._limit:
            raise RepeatedRefusalError(
                f"{self._in_a_row} batches in a row held groups that could not be trained on; the "
                f"last time {line}. {_REMEDIES[last.reason]} The groups are in the run's refused/, "
                "the reasons under 'refused' in its metrics.jsonl. Raise learner.max_refusals if "
                "this is expected."
            )
        return line
