"""Records: what one episode of a director leaves behind.

Token ids are the truth. A trajectory is one flat token sequence in which `turn_id` says who wrote
each token: −1 for the prompt and the observations, k for the k-th turn of the policy. A turn is
one *sub-sequence* in the sense of Workflow-R1 (arXiv 2602.01202, section 3.2).

Mostly every token sees all before it. An environment may also begin a fresh *context* between two
turns: a prompt of its own, behind which the policy sees nothing of what came before. All contexts
of an episode stay one trajectory with one reward, so that an episode counts once however often its
context was begun anew.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum

import numpy as np


class StopReason(StrEnum):
    """Why an episode ended: what the policy did, or what the world did to it."""

    ANSWERED = "answered"
    FINISHED = "finished"
    OUT_OF_TURNS = "out_of_turns"
    OUT_OF_TOKENS = "out_of_tokens"
    INVALID = "invalid"
    BACKEND_FAILED = "backend_failed"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    ENVIRONMENT_FAILED = "environment_failed"
    SAMPLER_FAILED = "sampler_failed"
    PROMPT_TOO_LONG = "prompt_too_long"
    CANCELLED = "cancelled"
    EVICTED = "evicted"

    @property
    def is_world_failure(self) -> bool:
        """True when the world failed; such an episode never becomes a reward."""
        return self in _WORLD

    @property
    def is_transient(self) -> bool:
        """True when running the episode again may help."""
        return self in _TRANSIENT

    @property
    def is_infrastructure(self) -> bool:
        """True when a process or machine of the run failed, whatever the episode did."""
        return self in _INFRASTRUCTURE


_WORLD = frozenset(
    {
        StopReason.BACKEND_FAILED,
        StopReason.SANDBOX_UNAVAILABLE,
        StopReason.ENVIRONMENT_FAILED,
        StopReason.SAMPLER_FAILED,
        StopReason.PROMPT_TOO_LONG,
        StopReason.CANCELLED,
        StopReason.EVICTED,
    }
)


_INFRASTRUCTURE = frozenset({StopReason.SANDBOX_UNAVAILABLE, StopReason.SAMPLER_FAILED})


_TRANSIENT = frozenset(
    {StopReason.BACKEND_FAILED, StopReason.SANDBOX_UNAVAILABLE, StopReason.SAMPLER_FAILED}
)


class WorldFailureError(Exception):
    """The world failed, not the policy: the episode is retried or set aside, never scored."""

    def __init__(self, reason: StopReason, message: str) -> None:
        """Keep the reason beside the message; `reason` must be a world failure."""
        assert reason.is_world_failure, reason
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """Read as `reason: message`."""
        return f"{self.reason}: {self.message}"


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One chat message: role `system`, `user`, `assistant` or `tool`, and its text."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens [start, end) of a trajectory were sampled under weight version `version`."""

    start: int
    end: int
    version: int


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorCall:
    """One operator call: who, how long (seconds), how much, and whether a cache answered.

    Attributes:
        turn: index of the turn that made it; −1 where that was not recorded.
        ended_at: seconds since the epoch; 0 where that was not recorded. A call is described as
            soon as it has ended, so that this is the time when the description was made.
    """

    operator: str
    backend: str
    seconds: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cache_hit: bool = False
    status: str = "ok"
    turn: int = -1
    ended_at: float = dataclasses.field(default_factory=time.time, compare=False)


class TurnKind(StrEnum):
    """What a turn turned out to be once parsed."""

    TOOL = "tool"
    ANSWER = "answer"
    MALFORMED = "malformed"


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One sub-sequence: policy tokens [start, end) and the observation [end, observation_end).

    It was sampled behind tokens [context, start) and saw nothing before them.
    """

    start: int
    end: int
    observation_end: int
    kind: TurnKind
    finish_reason: str
    operator: str = ""
    context: int = 0

    def __len__(self) -> int:
        """Count of policy tokens."""
        return self.end - self.start


@dataclasses.dataclass(slots=True)
class Trajectory:
    """One scored episode.

    Attributes:
        tokens: int32 [T], prompt, turns and observations in order.
        turn_id: int16 [T], −1 outside policy tokens, else the index of the turn.
        behaviour_logprob: float32 [T], log-probability under the sampler; 0 where turn_id is −1.
        version_spans: cover exactly the policy tokens, in order, without overlap.
        reward: total reward; NaN for a world failure.
        source: where the task came from; what source-partitioned advantages compare within.
    """

    run_id: str
    task_id: str
    group_id: str
    sibling: int
    tokens: np.ndarray
    turn_id: np.ndarray
    behaviour_logprob: np.ndarray
    version_spans: list[VersionSpan]
    turns: list[Turn]
    messages: list[Message]
    stop_reason: StopReason
    reward: float = float("nan")
    reward_parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    operator_calls: list[OperatorCall] = dataclasses.field(default_factory=list)
    source: str = ""
    answer: str = ""
    error: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0

    @property
    def policy_tokens(self) -> int:
        """Count of tokens that the policy wrote."""
        return int(np.count_nonzero(self.turn_id >= 0))

    @property
    def oldest_version(self) -> int:
        """Oldest weight version among the policy tokens; raises ValueError if there is none."""
        return min(span.version for span in self.version_spans)

    def turn_context(self) -> Iterator[int]:
        """Where the context of each turn begins, in order."""
        for turn in self.turns:
            yield turn.context

    def turn_oldest_version(self) -> Iterator[int]:
        """Oldest weight version inside each turn, in order."""
        for turn in self.turns:
            yield min(
                s.version for s in self.version_spans if s.start < turn.end and s.end > turn.start
            )

    def token_versions(self) -> np.ndarray:
        """Weight version that sampled each token: int64 [T], −1 outside policy tokens."""
        versions = np.full(len(self.tokens), -1, np.int64)
        for span in self.version_spans:
            versions[span.start : span.end] = span.version
        return versions

    def check_valid(self) -> None:
        """Raise ValueError, naming the field, where two fields contradict each other.

        Values that are no numbers are found by `wfr.soundness.fault`.
        """
        where = f"trajectory {self.group_id}/{self.sibling}"
        total = len(self.tokens)
        if len(self.turn_id) != total or len(self.behaviour_logprob) != total:
            raise ValueError(f"{where}: tokens, turn_id and behaviour_logprob differ in length")
        expected = np.full(total, -1, np.int16)
        cursor, context = 0, 0
        for index, turn in enumerate(self.turns):
            if turn.context != context and not cursor <= turn.context < turn.start:
                raise ValueError(
                    f"{where}: turn {index} begins its context at token {turn.context}, which is "
                    f"neither that of the turn before nor between the two turns"
                )
            context = turn.context
            if not cursor <= turn.start < turn.end <= turn.observation_end <= total:
                raise ValueError(f"{where}: turn {index} has the impossible span {turn}")
            expected[turn.start : turn.end] = index
            cursor = turn.observation_end
        if not np.array_equal(expected, self.turn_id):
            raise ValueError(f"{where}: turn_id does not match the turns' spans")
        covered = np.zeros(total, bool)
        for span in self.version_spans:
            if not 0 <= span.start < span.end <= total or covered[span.start : span.end].any():
                raise ValueError(f"{where}: version span {span} is impossible or overlaps")
            covered[span.start : span.end] = True
        if not np.array_equal(covered, self.turn_id >= 0):
            raise ValueError(f"{where}: version_spans do not cover exactly the policy tokens")


@dataclasses.dataclass(slots=True)
class Group:
    """The sibling trajectories of one task: what group advantages are computed over."""

    group_id: str
    task_id: str
    admitted_version: int
    trajectories: list[Trajectory]

    @property
    def scored(self) -> list[Trajectory]:
        """The siblings that count: those the world did not fail."""
        return [t for t in self.trajectories if not t.stop_reason.is_world_failure]
