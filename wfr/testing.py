"""Fakes of the world's parts, and the conformance tests that every environment can inherit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence

from wfr.backends.base import Completion, OperatorRequest
from wfr.environments.base import Environment, StepType, TimeStep
from wfr.sandbox import Result, Status
from wfr.tasks.source import Task
from wfr.trajectory import StopReason


class FakeBackend:
    """A backend that replays a script: texts are replies, exceptions are raised.

    The last entry repeats for ever; `requests` holds what was asked.
    """

    name = "fake"

    def __init__(self, *script: str | Exception) -> None:
        """Replay `script`; an empty one replies with the empty string."""
        self._script = list(script) or [""]
        self.requests: list[OperatorRequest] = []

    async def complete(self, request: OperatorRequest) -> Completion:
        """Give the next reply of the script."""
        self.requests.append(request)
        entry = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(entry, Exception):
            raise entry
        return Completion(entry, prompt_tokens=3, completion_tokens=2, cost_usd=0.01)


class HangingBackend:
    """A backend that never replies."""

    name = "hanging"

    async def complete(self, request: OperatorRequest) -> Completion:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


class FakeSandbox:
    """A sandbox with known outcomes by program; any other program passes without output."""

    def __init__(self, outcomes: Mapping[str, str | Result] | None = None) -> None:
        """A text in `outcomes` is the value of the program's last expression."""
        self._outcomes = outcomes or {}
        self.programs: list[str] = []

    async def run(self, code: str, *, stdin: str = "") -> Result:
        """Look the program up."""
        self.programs.append(code)
        outcome = self._outcomes.get(code)
        if isinstance(outcome, Result):
            return outcome
        return Result(Status.PASSED, "", "", outcome, 0.0)


def play(environment: Environment, turns: Iterable[str]) -> list[TimeStep]:
    """Step through `turns` until they or the episode end; returns the steps."""

    async def steps() -> list[TimeStep]:
        taken: list[TimeStep] = []
        for turn in turns:
            taken.append(await environment.step(turn, "stop"))
            if taken[-1].last:
                break
        return taken

    return asyncio.run(steps())


class EnvironmentConformance:
    """What every environment must do; inherit, define `make`, `task` and `turns`, run pytest.

    `turns()` is one whole episode, at least two turns long, whose last turn ends it.
    """

    def make(self) -> Environment:
        """A fresh environment."""
        raise NotImplementedError

    def task(self) -> Task:
        """A task for it."""
        raise NotImplementedError

    def turns(self) -> Sequence[str]:
        """The turns of an episode of `task()`."""
        raise NotImplementedError

    def test_reset_gives_the_prompt(self) -> None:
        """The first step is FIRST and has messages, none of them the assistant's."""
        step = self.make().reset(self.task())
        assert step.type is StepType.FIRST
        assert step.messages
        assert all(message.role != "assistant" for message in step.messages)

    def test_prompt_keeps_the_answers_secret(self) -> None:
        """Two tasks that differ in their accepted answers only have the same prompt."""
        task = self.task()
        other = Task(task.id, task.question, ("something else",), task.source)
        assert self.make().reset(task).messages == self.make().reset(other).messages

    def test_episode_ends_with_its_last_turn(self) -> None:
        """Steps before the last are MID with one observation; the last names its reason."""
        *middle, last = self._played(self.make())
        assert len(middle) + 1 == len(self.turns())
        assert all(step.type is StepType.MID and len(step.messages) == 1 for step in middle)
        assert all(step.turn_kind is not None for step in (*middle, last))
        assert last.last
        assert last.stop_reason is not None

    def test_deterministic(self) -> None:
        """The same turns bring the same observations and the same reward."""
        one, two = self.make(), self.make()
        assert _seen(self._played(one)) == _seen(self._played(two))
        assert one.reward() == two.reward()

    def test_reset_forgets(self) -> None:
        """A second episode in the same environment is like the first."""
        environment = self.make()
        first = _seen(self._played(environment)), environment.reward()
        assert (_seen(self._played(environment)), environment.reward()) == first

    def test_reward_is_the_sum_of_its_parts(self) -> None:
        """The total is what the parts say."""
        environment = self.make()
        self._played(environment)
        reward = environment.reward()
        assert abs(reward.total - sum(reward.parts.values())) < 1e-9

    def test_resumes_after_every_turn(self) -> None:
        """State → JSON → restore, anywhere, changes nothing of what follows."""
        whole = self.make()
        expected = _seen(self._played(whole))
        for cut in range(len(self.turns()) + 1):
            before = self.make()
            before.reset(self.task())
            play(before, self.turns()[:cut])
            after = self.make()
            after.restore(self.task(), json.loads(json.dumps(before.state())))
            assert _seen(play(after, self.turns()[cut:])) == expected[cut:]
            assert after.reward() == whole.reward()
            assert after.answer() == whole.answer()

    def test_truncation_ends_the_episode(self) -> None:
        """A token limit ends the episode, which can still be scored."""
        environment = self.make()
        environment.reset(self.task())
        play(environment, self.turns()[:1])
        step = environment.truncate(StopReason.OUT_OF_TOKENS)
        assert step.type is StepType.TRUNCATED
        assert step.stop_reason is StopReason.OUT_OF_TOKENS
        assert environment.reward().total == environment.reward().total  # not NaN

    def test_any_text_is_a_turn(self) -> None:
        """No text that a policy may write raises."""
        for text in ("", " ", "\x00", "<", "</think>", "<tool>" * 100, "é\u2028\ud800", "<think>"):
            environment = self.make()
            environment.reset(self.task())
            environment.turn_complete(text)
            (step,) = play(environment, [text])
            assert step.turn_kind is not None

    def _played(self, environment: Environment) -> list[TimeStep]:
        environment.reset(self.task())
        return play(environment, self.turns())


def _seen(steps: Sequence[TimeStep]) -> list[tuple[object, ...]]:
    """All but the calls, whose seconds differ."""
    return [(s.type, s.messages, s.stop_reason, s.turn_kind, s.operator) for s in steps]
