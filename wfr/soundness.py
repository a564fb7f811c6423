"""What may be wrong with a recorded trajectory, and the refusal to train on it.

A log-probability that is no number comes from a sampler that failed; a reward that is none from an
environment. Neither may reach a loss, where one such value turns every weight into NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

LOGPROB_SLACK = 1e-4
"""A log-probability above 0 by no more than this is rounding in some kernel."""


class Recorded(Protocol):
    """What is looked at; see `wfr.trajectory.Trajectory`."""

    @property
    def group_id(self) -> str:
        """Of its group."""
        ...

    @property
    def sibling(self) -> int:
        """Its place in the group."""
        ...

    @property
    def turn_id(self) -> np.ndarray:
        """int16 [T], −1 outside policy tokens."""
        ...

    @property
    def behaviour_logprob(self) -> np.ndarray:
        """float32 [T]."""
        ...

    @property
    def reward(self) -> float:
        """The total."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """A group that was not trained on.

    Attributes:
        reason: `invalid`: its records are not sound; `not_finite`: the loss or its gradient was not
            finite; `zero_variance`, `masked`: the whole batch held nothing to learn from.
        detail: which trajectory and turn, and what is wrong with it.
    """

    group_id: str
    reason: str
    detail: str


class BatchRefusedError(Exception):
    """No group of the batch could be trained on: no step was taken, the version stays."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        """Say why, group by group."""
        super().__init__(tuple(refusals))
        self.refusals = tuple(refusals)

    def __str__(self) -> str:
        """Read as the first refusal and the count of the others."""
        first, others = self.refusals[0], len(self.refusals) - 1
        more = f" (and {others} groups more)" if others else ""
        return f"group {first.group_id} refused as {first.reason}: {first.detail}{more}"


def fault(trajectory: Recorded) -> str:
    """What is wrong with a scored trajectory, naming it and the turn; empty if it is sound.

    Lengths and spans are those of a valid record (`Trajectory.check_valid`).
    """
    where = f"trajectory {trajectory.group_id}/{trajectory.sibling}"
    turn, logprob = trajectory.turn_id, trajectory.behaviour_logprob
    policy = turn >= 0
    if not policy.any() or policy[0]:
        count = np.count_nonzero(policy)
        return f"{where}: its {count} policy tokens must exist and follow a prompt"
    wrong = policy & ~(np.isfinite(logprob) & (logprob <= LOGPROB_SLACK))
    if wrong.any():
        at = int(wrong.argmax())
        return f"{where}, turn {turn[at]}: behaviour_logprob is {logprob[at]} at token {at}"
    turns = turn[policy]
    falls = np.flatnonzero(turns[1:] < turns[:-1])
    if len(falls):
        after, before = turns[falls[0] + 1], turns[falls[0]]
        return f"{where}, turn {after}: turn_id is out of order, it follows turn {before}"
    if not np.isfinite(trajectory.reward):
        return f"{where}: the reward is {trajectory.reward}"
    return ""
