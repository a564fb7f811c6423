"""The fakes that a simulated cluster is made of keep time, and the offered rate, as they say."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from wfr.protocols import PeerLostError, SamplingRequest
from wfr.tasks.source import Task
from wfr.testing import FakeClock, settle
from wfr.testing_roles import PacedEnvironment, Pacer, SimulatedSampler

REQUEST = SamplingRequest([1, 2, 3], 8, (), 1.0)


def test_waits_end_at_the_rate_in_order_and_whatever_the_load():
    async def main():
        clock = FakeClock()
        pacer = Pacer(1, clock=clock, sleep=clock.sleep)
        running = asyncio.create_task(pacer.run())
        waits = [asyncio.create_task(pacer.wait()) for _ in range(3000)]
        await clock.pass_(5)
        assert not any(wait.done() for wait in waits)
        pacer.pace(100)
        await clock.pass_(20)
        ended = [wait for wait in waits if wait.done()]
        assert ended == waits[: len(ended)]
        assert 1700 < len(ended) < 2300
        due = [wait.result() for wait in ended]
        assert due == sorted(due)
        pacer.pace(math.inf)
        await clock.pass_(1)
        assert all(wait.done() for wait in waits)
        running.cancel()

    asyncio.run(main())


def test_what_comes_late_is_noted_from_when_it_was_due():
    async def main():
        pacer = Pacer(1)
        pacer.pace(math.inf)
        environment = PacedEnvironment(2, pacer, sampler_s=1.0, prompt=4, observation=3)
        environment.reset(Task("t", "", ("",), "s"))
        before = time.perf_counter()
        step = await environment.step("", "stop")
        assert not step.last
        assert (await environment.step("", "stop")).last
        turns, (added,) = pacer.drain()
        assert turns == 2
        assert -1.0 <= added <= time.perf_counter() - before - 1.0
        assert pacer.drain() == (0, [])

    asyncio.run(main())


def test_a_simulated_sampler_holds_still_for_an_update_and_dies():
    async def main():
        sampler = SimulatedSampler(0.0, 4)
        sampler.begin_update()
        asked = asyncio.create_task(sampler.sample(REQUEST))
        await settle(rounds=20)
        assert not asked.done()
        assert sampler.load() == (1, True)
        sampler.prepare_update()
        sampler.commit_update(3)
        sample = await asked
        assert (len(sample.tokens), sample.spans[0].version) == (4, 3)
        sampler.begin_update()
        asked = asyncio.create_task(sampler.sample(REQUEST))
        await settle(rounds=20)
        sampler.die()
        with pytest.raises(PeerLostError):
            await asked
        with pytest.raises(PeerLostError):
            sampler.begin_update()

    asyncio.run(main())
