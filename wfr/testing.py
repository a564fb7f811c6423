"""Fakes of the world's parts, and the conformance tests that every environment can inherit."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wfr.backends.base import Completion, OperatorRequest
from wfr.environments.base import Environment, Reward, StepType, TimeStep
from wfr.protocols import PeerLostError, Sample, SamplingRequest
from wfr.sandbox import Limits, Result, Status
from wfr.tasks.source import Task
from wfr.trajectory import Message, StopReason, TurnKind, VersionSpan


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


class FakeTracker:
    """An experiment tracker that keeps what it gets; it waits for `gate`, and `fails` if told to.

    `began` is set once a write is under way.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self.written: list[tuple[int, float, dict[str, float]]] = []
        self.attempts = 0
        self.closed = self.fails = False
        self.began = threading.Event()
        self.gate: threading.Event | None = None

    def write(self, version: int, at: float, values: Mapping[str, float]) -> None:
        """Keep the numbers."""
        self.attempts += 1
        self.began.set()
        if self.gate is not None:
            self.gate.wait()
        if self.fails:
            raise OSError("broken")
        self.written.append((version, at, dict(values)))

    def close(self) -> None:
        """Note it."""
        self.closed = True


class FakeClock:
    """Seconds that pass when a test says so; `clock()` reads them, `sleep` waits for them."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds have passed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def pass_(self, seconds: float) -> None:
        """Let time pass, waking each sleeper at its moment; other tasks run in between."""
        end = self.now + seconds
        await settle()
        while due := [s for s in self._sleepers if s[0] <= end and not s[1].done()]:
            moment, future = min(due, key=lambda sleeper: sleeper[0])
            self.now = max(self.now, moment)
            future.set_result(None)
            await settle()
        self.now = end
        await settle()


class FakeSandbox:
    """A sandbox with known outcomes by program; any other program passes without output."""

    def __init__(self, outcomes: Mapping[str, str | Result] | None = None) -> None:
        """A text in `outcomes` is the value of the program's last expression."""
        self._outcomes = outcomes or {}
        self.programs: list[str] = []

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        tests: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> Result:
        """Look the program up; what else is asked for changes nothing."""
        self.programs.append(code)
        outcome = self._outcomes.get(code)
        if isinstance(outcome, Result):
            return outcome
        return Result(Status.PASSED, value=outcome)


Reply = Sequence[int] | Callable[[SamplingRequest], Sequence[int]]


class FakeSampler:
    """A sampler without a model: it replays token ids, or computes them from the request.

    The last entry of the script repeats for ever. A reply longer than the request allows is cut
    and finishes as `length`, any other as `stop`. Tests steer it while it runs:

        sampler = FakeSampler([5, 6], [7], lambda request: request.tokens[-1:])
        sampler.updates[3] = 1    # its fourth token and later ones are of version 1
        sampler.open.clear()      # requests wait, until `open` is set or `die()` is called
        sampler.die()             # every request, waiting ones too, raises PeerLostError
    """

    def __init__(self, *script: Reply, version: int = 0, dies_at: int | None = None) -> None:
        """Replay `script` under weight `version`; the `dies_at`-th request (from 0) kills it."""
        self._script = list(script)
        self._dies_at = dies_at
        self.version = version
        self.updates: dict[int, int] = {}
        self.requests: list[SamplingRequest] = []
        self.emitted = 0
        self.dead = False
        self.open = asyncio.Event()
        self.open.set()

    async def sample(self, request: SamplingRequest) -> Sample:
        """Continue the request; other tasks get their turns first."""
        number = len(self.requests)
        self.requests.append(request)
        reply = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        await asyncio.sleep(0)
        await self.open.wait()
        if self.dead or number == self._dies_at:
            self.die()
            raise PeerLostError("the fake sampler has died")
        tokens = list(reply(request) if callable(reply) else reply)
        finish_reason = "stop" if len(tokens) <= request.max_tokens else "length"
        return self._emit(tokens[: request.max_tokens], finish_reason)

    def die(self) -> None:
        """Be dead from now on."""
        self.dead = True
        self.open.set()

    def _emit(self, tokens: Sequence[int], finish_reason: str) -> Sample:
        versions = []
        for _ in tokens:
            self.version = self.updates.pop(self.emitted, self.version)
            versions.append(self.version)
            self.emitted += 1
        spans, start = [], 0
        for version, run in itertools.groupby(versions):
            end = start + len(list(run))
            spans.append(VersionSpan(start, end, version))
            start = end
        ids = np.array(tokens, np.int32)
        return Sample(ids, self.logprob(ids), tuple(spans), finish_reason)

    @staticmethod
    def logprob(tokens: np.ndarray) -> np.ndarray:
        """What the fake claims to have sampled each id with: float32 [n], different per id."""
        return (-1 / (2 + np.asarray(tokens) % 97)).astype(np.float32)


class FakeDirector(FakeSampler):
    """A version of a director without a model, for the service; it tells one character at a time.

    `application` answers each request to OpenAI's API with its path and body.
    """

    def __init__(self, *script: Reply, version: int = 0) -> None:
        """Replay `script` as `version`."""
        super().__init__(*script, version=version)
        self.ended = False

    async def sample(
        self, request: SamplingRequest, on_text: Callable[[str], None] = lambda text: None
    ) -> Sample:
        """Continue the request and tell its text."""
        sample = await super().sample(request)
        for token in sample.tokens.tolist():
            on_text(chr(token))
        return sample

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        """Echo."""
        body = (await receive())["body"].decode()
        text = json.dumps({"path": scope["path"], "body": json.loads(body)}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def check_health(self) -> None:
        """Raise where it was told to die."""
        if self.dead:
            raise PeerLostError("the fake director has died")

    def shutdown(self) -> None:
        """Note it."""
        self.ended = True


class FakeRenderer:
    """A tokenizer of one id per character: EOS ends a message, OPEN begins an assistant's turn.

    `ids` and `text` are inverses, so a test can write and read token ids as strings.
    """

    OPEN, EOS = "\x02", "\x03"
    eos_id: int | None = 3

    @staticmethod
    def ids(text: str) -> list[int]:
        """The ids of a text."""
        return [ord(character) for character in text]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The contents, then the opening."""
        return self.ids("".join(m.content + self.EOS for m in messages) + self.OPEN)

    def observation(self, messages: Sequence[Message], *, ended_by_eos: bool) -> list[int]:
        """The end of the turn unless it has ended itself, the contents, the opening."""
        return self.ids("" if ended_by_eos else self.EOS) + self.prompt(messages)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of one turn without its end."""
        return "".join(map(chr, tokens)).removesuffix(self.EOS)


class FakeEnvironment:
    """A toy environment: `get X;` is answered by X, `say X;` ends the episode with X.

    `new X;` begins a fresh context with the question and X. A `;` inside parentheses is text. Right
    answers are rewarded with 1. `script` names what goes wrong: the k-th step raises its k-th entry
    where that is not None; `scoring` is raised by `reward`.
    """

    stop: tuple[str, ...] = (";",)

    def __init__(self, *script: Exception | None, scoring: Exception | None = None) -> None:
        """Fail as scripted, otherwise never."""
        self._script = script
        self._scoring = scoring
        self._task: Task | None = None
        self._turns: list[str] = []
        self._ended = False

    def reset(self, task: Task) -> TimeStep:
        """Begin with the question."""
        self._task, self._turns, self._ended = task, [], False
        return TimeStep.first(Message("user", task.question))

    def turn_complete(self, text: str) -> bool:
        """False inside parentheses."""
        return text.count("(") <= text.count(")")

    async def step(self, text: str, finish_reason: str) -> TimeStep:
        """Answer, end, or warn; or raise what the script says."""
        failure = dict(enumerate(self._script)).get(len(self._turns))
        if failure is not None:
            raise failure
        self._turns.append(text)
        verb, _, rest = text.removesuffix(";").partition(" ")
        if verb == "say":
            self._ended = True
            return TimeStep.terminated(StopReason.ANSWERED, turn_kind=TurnKind.ANSWER)
        if verb == "new":
            assert self._task is not None
            return TimeStep.fresh_context(
                Message("user", self._task.question),
                Message("tool", rest),
                turn_kind=TurnKind.TOOL,
                operator="new",
            )
        if verb == "get":
            kind, reply, operator = TurnKind.TOOL, rest, "get"
        else:
            kind, reply, operator = TurnKind.MALFORMED, "?", ""
        return TimeStep.mid(Message("tool", reply), turn_kind=kind, operator=operator)

    def truncate(self, reason: StopReason) -> TimeStep:
        """End without an answer."""
        self._ended = True
        return TimeStep.truncated(reason, turn_kind=TurnKind.MALFORMED)

    def reward(self) -> Reward:
        """1 for an accepted answer."""
        assert self._task is not None
        assert self._ended
        if self._scoring is not None:
            raise self._scoring
        correct = float(self.answer() in self._task.answers)
        return Reward(correct, {"correct": correct})

    def answer(self) -> str:
        """What was said."""
        last = self._turns[-1] if self._turns else ""
        return last.removesuffix(";").removeprefix("say ") if last.startswith("say ") else ""

    def state(self) -> Mapping[str, Any]:
        """The turns."""
        return {"turns": self._turns, "ended": self._ended}

    def restore(self, task: Task, state: Mapping[str, Any]) -> None:
        """Continue."""
        self._task, self._turns, self._ended = task, list(state["turns"]), state["ended"]


async def settle(until: Callable[[], object] = lambda: False, rounds: int = 200) -> None:
    """Let every other task run until `until()` is true, at most so many rounds of the loop."""
    for _ in range(rounds):
        if until():
            return
        await asyncio.sleep(0)


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
        other = dataclasses.replace(task, answers=("something else",))
        assert self.make().reset(task).messages == self.make().reset(other).messages

    def test_episode_ends_with_its_last_turn(self) -> None:
        """Steps before the last are MID with one observation or a fresh context's prompt."""
        *middle, last = self._played(self.make())
        assert len(middle) + 1 == len(self.turns())
        assert all(step.type is StepType.MID and step.messages for step in middle)
        assert all(len(step.messages) == 1 for step in middle if not step.fresh)
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
    return [(s.type, s.messages, s.stop_reason, s.turn_kind, s.operator, s.fresh) for s in steps]
