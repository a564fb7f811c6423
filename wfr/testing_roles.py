"""Fakes of a cluster's roles, for simulating one that is larger than the machine at hand.

Nothing here computes anything: a sampler lets time pass and replies with the same tokens, a learner
lets time pass and publishes, an environment waits. What is real is what stands between them.
"""

from __future__ import annotations

import asyncio
import collections
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np

from wfr.environments.base import Reward, TimeStep
from wfr.protocols import PeerLostError, Publication, Sample, SamplingRequest, TransferGroup
from wfr.tasks.source import Task
from wfr.testing import FakeRenderer
from wfr.trajectory import Message, StopReason, TurnKind, VersionSpan


class SimulatedSampler:
    """A fake: every request takes `seconds` and is continued by `tokens` ids, EOS the last.

    It holds still for weight updates as the real one does, and receives nothing.
    """

    def __init__(self, seconds: float, tokens: int) -> None:
        """Be up, at version 0."""
        self._seconds = seconds
        self._tokens = np.full(tokens, ord("x"), np.int32)
        self._tokens[-1] = ord(FakeRenderer.EOS)
        self._logprob = np.full(tokens, -0.5, np.float32)
        self._version = 0
        self._requests = 0
        self._leaving = False
        self._emptied = asyncio.Event()
        self._timers: set[asyncio.Future[None]] = set()
        self._going = asyncio.Event()
        self._going.set()
        self._dead = asyncio.Event()

    async def sample(self, request: SamplingRequest) -> Sample:
        """Let the time pass, or half of the tokens where it leaves before.

        Raises:
            PeerLostError: it has died meanwhile, or was leaving before.
        """
        self._check()
        if self._leaving:
            raise PeerLostError("the simulated sampler is leaving")
        self._requests += 1
        try:
            cut = await self._cut_within(self._seconds)
            await self._going.wait()
        finally:
            self._requests -= 1
            if not self._requests:
                self._emptied.set()
        self._check()
        whole = len(self._tokens)
        count = min(whole // 2 if cut else whole, request.max_tokens)
        span = VersionSpan(0, count, self._version)
        reason = "stop" if count == whole else "abort" if cut else "length"
        return Sample(self._tokens[:count], self._logprob[:count], (span,), reason)

    async def leave(self, grace_s: float) -> None:
        """Take no further request; cut off those that have not ended after `grace_s` seconds."""
        self._leaving = True
        try:
            async with asyncio.timeout(grace_s):
                await self._empty()
        except TimeoutError:
            for timer in list(self._timers):
                timer.cancel()
            await self._empty()

    def init_transfer(self, init_info: Mapping[str, Any]) -> None:
        """Join nothing."""
        self._check()

    def begin_update(self) -> None:
        """Hold still."""
        self._check()
        self._going.clear()

    def prepare_update(self, checksums: Any = None) -> None:
        """Install nothing."""
        self._check()

    def commit_update(self, version: int) -> None:
        """Go on as `version`."""
        self._check()
        self._version = version
        self._going.set()

    async def watch(self) -> None:
        """Return never; raise PeerLostError when it has died."""
        await self._dead.wait()
        self._check()

    def load(self) -> tuple[int, bool]:
        """Requests that it has, and whether it holds still."""
        return self._requests, not self._going.is_set()

    def die(self) -> None:
        """Fail every call from now on, those that wait too."""
        self._dead.set()
        self._going.set()

    def shutdown(self) -> None:
        """End."""
        self.die()

    async def _cut_within(self, seconds: float) -> bool:
        """Let time pass; whether that was broken off."""
        timer = asyncio.ensure_future(asyncio.sleep(seconds))
        self._timers.add(timer)
        try:
            await asyncio.wait({timer})
            return timer.cancelled()
        finally:
            timer.cancel()
            self._timers.discard(timer)

    async def _empty(self) -> None:
        while self._requests:
            self._emptied.clear()
            await self._emptied.wait()

    def _check(self) -> None:
        if self._dead.is_set():
            raise PeerLostError("the simulated sampler has died")


class SimulatedLearner:
    """A fake learner rank: a step takes `seconds`; publishing drives the samplers' real client."""

    def __init__(self, seconds: float) -> None:
        """Be at version 0, connected to nobody."""
        self._seconds = seconds
        self._version = 0
        self._client: Any = None

    def step(self, version: int, *rows: int) -> dict[str, Any]:
        """Let the time of a step pass; `rows` are the trajectories of each group."""
        time.sleep(self._seconds)
        self._version = version + 1
        return {"reward/mean": 0.0, "learner/step_seconds": self._seconds, "rows": sum(rows)}

    def connect(self, group: TransferGroup, client: Any) -> None:
        """Let every sampler join; `client` is a `cluster.two_phases.SamplersClient`."""
        self._client = client
        client.init_weight_transfer_engine({"rank_offset": 1})

    def hold(self) -> None:
        """There are no weights to keep."""

    def publish(self) -> Publication:
        """Bring the version, and no weights, into every sampler in two phases."""
        self._client.start_weight_update()
        self._client.finish_weight_update(str(self._version))
        return Publication(self._version, self._client.lost, self._client.seconds)


class Pacer:
    """Ends waits one after the other at a rate, whatever the load: an open loop.

    The moments are those of a Poisson process. `turns` counts what `note` was told; at a moment at
    which nobody waits, nothing is made up for later.
    """

    def __init__(
        self,
        seed: int,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """End nobody's wait before `pace` says so."""
        self._rng = random.Random(seed)
        self._clock = clock
        self._sleep = sleep
        self._rate = 0.0
        self._changed = asyncio.Event()
        self._waiting: collections.deque[asyncio.Future[float]] = collections.deque()
        self._added: list[float] = []
        self.turns = 0

    def pace(self, rate: float) -> None:
        """From now on end `rate` waits per second; `math.inf`: each at once."""
        self._rate = rate
        self._changed.set()

    async def wait(self) -> float:
        """Wait for one's turn, first come first served; returns the moment that it was due."""
        if self._rate == math.inf:
            return self._clock()
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await future

    def note(self, added: float | None) -> None:
        """Count a turn, and the seconds that it took beyond its sampler's."""
        self.turns += 1
        if added is not None:
            self._added.append(added)

    def drain(self) -> tuple[int, list[float]]:
        """Turns, and what was added to each, since the last call."""
        turns, added = self.turns, self._added
        self.turns, self._added = 0, []
        return turns, added

    async def run(self) -> None:
        """End waits until cancelled."""
        while True:
            self._changed.clear()
            if self._rate == math.inf:
                self._release(len(self._waiting), self._clock())
            if self._rate in (0.0, math.inf):
                await self._changed.wait()
                continue
            due = self._clock()
            while not self._changed.is_set():
                due += self._rng.expovariate(self._rate)
                if (left := due - self._clock()) > 0:
                    await self._sleep(left)
                self._release(1, due)

    def _release(self, count: int, due: float) -> None:
        while count and self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(due)
                count -= 1


class PacedEnvironment:
    """A fake environment of `turns` turns; between two of them it waits for its pacer.

    What a turn takes beyond its sampler's `sampler_s` seconds, from the moment that the wait was
    due to end to the arrival of the turn here, is what stands between episode and sampler: the
    event loop, the rollout, the router, the call.
    """

    stop: tuple[str, ...] = ()

    def __init__(
        self, turns: int, pacer: Pacer, *, sampler_s: float, prompt: int, observation: int
    ) -> None:
        """`prompt` and `observation` are lengths in tokens."""
        self._turns = turns
        self._pacer = pacer
        self._sampler_s = sampler_s
        self._prompt = Message("user", "p" * prompt)
        self._observation = Message("tool", "o" * observation)
        self._due: float | None = None

    def reset(self, task: Task) -> TimeStep:
        """Begin."""
        return TimeStep.first(self._prompt)

    def turn_complete(self, text: str) -> bool:
        """Any turn is."""
        return True

    async def step(self, text: str, finish_reason: str) -> TimeStep:
        """Note what the turn took, and wait, or end."""
        late = None
        if self._due is not None:
            late = time.perf_counter() - self._due - self._sampler_s
        self._pacer.note(late)
        self._turns -= 1
        if self._turns <= 0:
            return TimeStep.terminated(StopReason.ANSWERED, turn_kind=TurnKind.ANSWER)
        self._due = await self._pacer.wait()
        return TimeStep.mid(self._observation, turn_kind=TurnKind.TOOL, operator="Wait")

    def truncate(self, reason: StopReason) -> TimeStep:
        """End without an answer."""
        return TimeStep.truncated(reason, turn_kind=TurnKind.MALFORMED)

    def reward(self) -> Reward:
        """Nothing."""
        return Reward(0.0, {"correct": 0.0})

    def answer(self) -> str:
        """None."""
        return ""

    def state(self) -> Mapping[str, Any]:
        """The turns that are left."""
        return {"turns": self._turns}

    def restore(self, task: Task, state: Mapping[str, Any]) -> None:
        """Continue."""
        self._turns = state["turns"]
