"""One episode: render, sample, parse, step; until the environment or a limit ends it."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from actors.recorder import Recorder
from wfr.backends.base import BackendConfigError
from wfr.environments.base import Environment, Reward, TimeStep
from wfr.phases import PhaseClock
from wfr.protocols import Sample, SamplingRequest
from wfr.tasks.source import Task
from wfr.trajectory import (
    Message,
    OperatorCall,
    StopReason,
    Trajectory,
    TurnKind,
    WorldFailureError,
)


class RendererLike(Protocol):
    """Messages to token ids and back; see `actors.render.Renderer`."""

    eos_id: int | None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt."""
        ...

    def observation(self, messages: Sequence[Message], *, ended_by_eos: bool) -> list[int]:
        """Token ids between two turns."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """The text of one turn."""
        ...


class TurnsLike(Protocol):
    """Where the completed turns of an attempt are kept; see `wfr.turn_journal.GroupTurns`."""

    def found(self, sibling: int, attempt: int) -> list[dict[str, Any]]:
        """Turns that an earlier process completed."""
        ...

    def append(self, sibling: int, attempt: int, turn: Mapping[str, Any]) -> None:
        """Keep one more."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How an episode samples, and how far it may go (in tokens).

    Attributes:
        max_length: what the policy sees at once, prompt included.
        max_response_tokens: all but prompts.
        max_total: all contexts together; what a learner takes in one piece.
    """

    max_length: int
    max_response_tokens: int
    max_turn_tokens: int
    temperature: float
    top_p: float = 1.0
    max_total: int = sys.maxsize


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeId:
    """Which episode: run, group, sibling and attempt."""

    run_id: str
    group_id: str
    sibling: int
    attempt: int = 0

    def __str__(self) -> str:
        """Unique among all episodes of a run."""
        return f"{self.group_id}/{self.sibling}#{self.attempt}"


class Rollout:
    """Runs one episode of `environment`; use it once."""

    def __init__(
        self,
        environment: Environment,
        renderer: RendererLike,
        sample: Callable[[SamplingRequest], Awaitable[Sample]],
        limits: Limits,
        turns: TurnsLike | None = None,
        clock: PhaseClock | None = None,
    ) -> None:
        """Sample turns through `sample`; keep each in `turns`, and go on from those found there.

        `clock` is told when the episode waits for its sampler, and for an operator.
        """
        self._environment = environment
        self._renderer = renderer
        self._sample = sample
        self._limits = limits
        self._turns = turns
        self._clock = clock or PhaseClock("own")
        self._messages: list[Message] = []
        self._calls: list[OperatorCall] = []

    async def run(self, task: Task, episode: EpisodeId) -> Trajectory:
        """Play the episode to its end; whatever goes wrong becomes the trajectory's stop reason.

        Raises:
            BackendConfigError: no episode can be played with this executor.
        """
        started = time.time()
        recorder, reason = Recorder(()), StopReason.ENVIRONMENT_FAILED
        reward, answer, error = Reward(float("nan"), {}), "", ""
        try:
            first = self._environment.reset(task)
            recorder = Recorder(self._renderer.prompt(first.messages))
            self._messages.extend(first.messages)
            if self._budget(recorder) < 1:
                raise WorldFailureError(StopReason.PROMPT_TOO_LONG, self._too_long(recorder))
            ended = self._resume(recorder, task, episode) or await self._play(recorder, episode)
            reward, answer = self._scored()
            reason = ended  # only now: an episode that cannot be scored was failed by the world
        except WorldFailureError as failure:
            reason, error = failure.reason, failure.message
        except BackendConfigError:
            raise  # not this episode's fault, and every other would fail alike
        except Exception:  # noqa: BLE001 - a user's environment may raise anything; it is recorded
            error = traceback.format_exc()
        recorder.close()
        return Trajectory(
            run_id=episode.run_id,
            task_id=task.id,
            group_id=episode.group_id,
            sibling=episode.sibling,
            **recorder.columns(),
            version_spans=recorder.spans,
            turns=recorder.turns,
            messages=self._messages,
            stop_reason=reason,
            reward=reward.total,
            reward_parts={**reward.parts, **reward.metrics},
            operator_calls=self._calls,
            source=task.source,
            answer=answer,
            error=error,
            started_at=started,
            finished_at=time.time(),
        )

    def _resume(self, recorder: Recorder, task: Task, episode: EpisodeId) -> StopReason | None:
        """Go on after the last turn that an earlier process completed; why it ended, if it did."""
        found = self._turns.found(episode.sibling, episode.attempt) if self._turns else []
        for saved in found:
            recorder.restore_turn(saved)
            self._messages.extend(Message(*message) for message in saved["messages"])
            self._calls.extend(OperatorCall(*call) for call in saved["calls"])
        if not found:
            return None
        self._environment.restore(task, found[-1]["environment"])
        ended = found[-1]["ended"]
        return StopReason(ended) if ended else None

    async def _play(self, recorder: Recorder, episode: EpisodeId) -> StopReason:
        """Turn after turn, each of them kept once it is complete."""
        while True:
            messages, calls = len(self._messages), len(self._calls)
            ended = await self._play_turn(recorder)
            if self._turns is not None:
                turn = {
                    **recorder.last_turn(),
                    "messages": [dataclasses.astuple(m) for m in self._messages[messages:]],
                    "calls": [dataclasses.astuple(call) for call in self._calls[calls:]],
                    "environment": self._environment.state(),
                    "ended": ended,
                }
                self._turns.append(episode.sibling, episode.attempt, turn)
            if ended is not None:
                return ended

    async def _play_turn(self, recorder: Recorder) -> StopReason | None:
        """One turn; why the episode ended with it, if it did."""
        finish = await self._sample_turn(recorder)
        text = self._renderer.text(recorder.turn_tokens)
        self._messages.append(Message("assistant", text))
        if finish == "length" and self._budget(recorder) < 1:
            recorder.end_turn(kind=TurnKind.MALFORMED, finish_reason=finish)
            return self._out_of_tokens()
        with self._clock.within("operator"):
            step = await self._environment.step(text, finish)
        seen = self._observe(recorder, step)
        fits = len(seen) < (self._room if step.fresh else self._budget)(recorder)
        if fits:
            self._messages.extend(step.messages)
        assert step.turn_kind is not None
        recorder.end_turn(
            seen if fits and not step.fresh else (),
            kind=step.turn_kind,
            finish_reason=finish,
            operator=step.operator,
        )
        if fits and step.fresh:
            recorder.begin_context(seen)
        if step.stop_reason is not None:
            return step.stop_reason
        return None if fits else self._out_of_tokens()

    def _scored(self) -> tuple[Reward, str]:
        reward = self._environment.reward()
        if not math.isfinite(reward.total):
            raise ValueError(
                f"the environment's reward is {reward.total}, its parts {reward.parts}"
            )
        return reward, self._environment.answer()

    async def _sample_turn(self, recorder: Recorder) -> str:
        """Sample until the turn is complete or a token budget is spent: `stop` or `length`."""
        allowed = min(self._limits.max_turn_tokens, self._budget(recorder))
        while (room := allowed - len(recorder.turn_tokens)) > 0:
            request = SamplingRequest(
                recorder.context_tokens,
                room,
                self._environment.stop,
                self._limits.temperature,
                self._limits.top_p,
                position=len(recorder),
            )
            with self._clock.within("sampler"):
                sample = await self._sample(request)
            recorder.add_sample(sample)
            if sample.finish_reason == "stop" and self._complete(recorder):
                return "stop"
        return "length"

    def _complete(self, recorder: Recorder) -> bool:
        tokens = recorder.turn_tokens
        return tokens[-1] == self._renderer.eos_id or self._environment.turn_complete(
            self._renderer.text(tokens)
        )

    def _observe(self, recorder: Recorder, step: TimeStep) -> list[int]:
        """Token ids that come before the next turn."""
        turn = len(recorder.turns)
        self._calls.extend(dataclasses.replace(call, turn=turn) for call in step.calls)
        if step.last:
            return []
        if step.fresh:
            return self._renderer.prompt(step.messages)
        ended_by_eos = recorder.turn_tokens[-1] == self._renderer.eos_id
        return self._renderer.observation(step.messages, ended_by_eos=ended_by_eos)

    def _budget(self, recorder: Recorder) -> int:
        """Tokens that may still be appended."""
        limits = self._limits
        return min(
            limits.max_response_tokens - recorder.response_length,
            limits.max_length - recorder.context_length,
            limits.max_total - len(recorder),
        )

    def _room(self, recorder: Recorder) -> int:
        """Tokens that the prompt of a fresh context may have."""
        if recorder.response_length >= self._limits.max_response_tokens:
            return 0
        return min(self._limits.max_length, self._limits.max_total - len(recorder))

    def _too_long(self, recorder: Recorder) -> str:
        return (
            f"the prompt's {len(recorder)} tokens leave no room within model.max_length="
            f"{self._limits.max_length}; raise it, or leave the task out"
        )

    def _out_of_tokens(self) -> StopReason:
        self._environment.truncate(StopReason.OUT_OF_TOKENS)
        return StopReason.OUT_OF_TOKENS
