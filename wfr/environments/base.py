"""The environment contract.

An environment sees text and returns messages; the rollout worker owns the token ids. The calling
sequence, for one episode:

    step = env.reset(task)                       # FIRST: the prompt's messages
    while not step.last:
        text, finish = ...sample one turn...     # again while not env.turn_complete(text)
        step = await env.step(text, finish)      # MID: the observation; else the episode ended
    reward = env.reward()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from wfr.rewards.base import Reward as Reward
from wfr.tasks.source import Task
from wfr.trajectory import Message, OperatorCall, StopReason, TurnKind


class StepType(StrEnum):
    """Where in an episode a time step stands."""

    FIRST = "first"
    MID = "mid"
    TERMINATED = "terminated"
    TRUNCATED = "truncated"


@dataclasses.dataclass(frozen=True, slots=True)
class TimeStep:
    """What the environment returns.

    Build it with `first`, `mid`, `fresh_context`, `terminated` or `truncated`.
    """

    type: StepType
    messages: tuple[Message, ...] = ()
    stop_reason: StopReason | None = None
    turn_kind: TurnKind | None = None
    operator: str = ""
    calls: tuple[OperatorCall, ...] = ()
    fresh: bool = False

    @property
    def last(self) -> bool:
        """True when the episode has ended."""
        return self.type in (StepType.TERMINATED, StepType.TRUNCATED)

    @classmethod
    def first(cls, *messages: Message) -> TimeStep:
        """The prompt."""
        return cls(StepType.FIRST, messages)

    @classmethod
    def mid(
        cls,
        observation: Message,
        *,
        turn_kind: TurnKind,
        operator: str = "",
        calls: tuple[OperatorCall, ...] = (),
    ) -> TimeStep:
        """An observation; the episode goes on."""
        return cls(StepType.MID, (observation,), None, turn_kind, operator, calls)

    @classmethod
    def fresh_context(
        cls,
        *messages: Message,
        turn_kind: TurnKind,
        operator: str = "",
        calls: tuple[OperatorCall, ...] = (),
    ) -> TimeStep:
        """The episode goes on, and the next turn sees these messages alone."""
        return cls(StepType.MID, messages, None, turn_kind, operator, calls, fresh=True)

    @classmethod
    def terminated(cls, reason: StopReason, *, turn_kind: TurnKind, operator: str = "") -> TimeStep:
        """The policy ended the episode."""
        return cls(StepType.TERMINATED, (), reason, turn_kind, operator)

    @classmethod
    def truncated(
        cls,
        reason: StopReason,
        *,
        turn_kind: TurnKind,
        operator: str = "",
        calls: tuple[OperatorCall, ...] = (),
    ) -> TimeStep:
        """A limit ended the episode."""
        return cls(StepType.TRUNCATED, (), reason, turn_kind, operator, calls)


class Environment(Protocol):
    """One episode at a time; deterministic given the task, the turns and the operators' replies."""

    stop: tuple[str, ...]
    """Strings that end a turn; the sampler keeps them in the token ids."""

    def reset(self, task: Task) -> TimeStep:
        """Begin an episode."""
        ...

    def turn_complete(self, text: str) -> bool:
        """False when a stop string occurred where it is mere text: go on sampling the turn."""
        ...

    async def step(self, text: str, finish_reason: str) -> TimeStep:
        """Take one whole turn; raises WorldFailureError when the world, not the policy, failed.

        `finish_reason` is `stop` (stop string or end of sequence) or `length` (a token budget).
        """
        ...

    def truncate(self, reason: StopReason) -> TimeStep:
        """End the episode from outside, because a token limit was reached after the last step."""
        ...

    def reward(self) -> Reward:
        """Score the finished episode."""
        ...

    def answer(self) -> str:
        """The final answer, or the empty string."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What `restore` needs to continue the episode: JSON-serialisable."""
        ...

    def restore(self, task: Task, state: Mapping[str, Any]) -> None:
        """Continue the episode of `task` that `state()` described."""
        ...
