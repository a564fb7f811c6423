"""The pool of samplers: whole again after every loss, and each loss is known once."""

from __future__ import annotations

import asyncio

import pytest

from cluster.samplers import SamplerPool, StartError
from wfr.protocols import PeerLostError
from wfr.testing import settle


class FakeProcess:
    """A sampler's process as the pool sees it; `death` is what its watcher raises."""

    def __init__(self, name):
        self.name = name
        self.events = []
        self.death = asyncio.get_running_loop().create_future()

    async def watch(self):
        await asyncio.shield(self.death)

    async def shutdown(self):
        self.events.append("shutdown")

    def kill(self):
        self.events.append("kill")

    def die(self, why="gone"):
        self.death.set_exception(PeerLostError(why))


class Starter:
    """Starts fake processes; names in `broken` fail, and all wait for `open`."""

    def __init__(self, *broken):
        self.started = {}
        self.open = asyncio.Event()
        self.open.set()
        self._broken = broken

    async def __call__(self, name):
        self.started[name] = FakeProcess(name)
        await self.open.wait()
        if name in self._broken:
            raise PeerLostError(f"{name} did not start")
        return self.started[name]


def test_refill_starts_what_is_missing_all_at_once():
    async def main():
        start = Starter()
        start.open.clear()
        pool = SamplerPool(3, start)
        filling = asyncio.create_task(pool.refill())
        await settle(lambda: len(start.started) == 3, rounds=5)
        assert len(start.started) == 3
        assert not pool.live
        start.open.set()
        await filling
        assert dict(pool.live) == start.started
        await pool.refill()
        assert len(start.started) == 3
        await pool.shutdown()

    asyncio.run(main())


def test_a_death_is_noticed_and_the_next_refill_replaces_it_under_a_new_name():
    async def main():
        pool = SamplerPool(2, start := Starter())
        await pool.refill()
        pool.joined.set()
        start.started["sampler-0"].die("engine died\nwith a long story")
        await asyncio.wait_for(pool.changed.wait(), 5)
        assert list(pool.live) == ["sampler-1"]
        assert pool.lost == [("sampler-0", "engine died")]
        assert not pool.joined.is_set()
        assert start.started["sampler-0"].events == ["kill"]
        await pool.refill()
        assert list(pool.live) == ["sampler-1", "sampler-2"]
        start.started["sampler-2"].die()
        await settle(lambda: len(pool.live) == 1)
        assert pool.lost[1:] == [("sampler-2", "gone")]
        await pool.shutdown()

    asyncio.run(main())


def test_a_sampler_is_lost_once():
    async def main():
        pool = SamplerPool(1, start := Starter())
        await pool.refill()
        pool.lose("sampler-0", "was part of a failed update")
        pool.lose("sampler-0", "again")
        pool.lose("sampler-9", "never seen")
        start.started["sampler-0"].die()
        await settle(rounds=5)
        assert pool.lost == [("sampler-0", "was part of a failed update")]
        assert start.started["sampler-0"].events == ["kill"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_the_live_samplers_are_a_snapshot():
    async def main():
        pool = SamplerPool(2, Starter())
        await pool.refill()
        for name in pool.live:
            pool.lose(name, "all of them")
        assert not pool.live

    asyncio.run(main())


def test_a_start_that_fails_is_raised_and_the_others_are_kept():
    async def main():
        pool = SamplerPool(3, start := Starter("sampler-1"))
        with pytest.raises(PeerLostError, match="sampler-1 did not start"):
            await pool.refill()
        assert list(pool.live) == ["sampler-0", "sampler-2"]
        await pool.refill()
        assert list(pool.live) == ["sampler-0", "sampler-2", "sampler-3"]
        await pool.shutdown()
        ended = [start.started[name].events for name in ("sampler-0", "sampler-2", "sampler-3")]
        assert ended == [["shutdown", "kill"]] * 3

    asyncio.run(main())


def test_those_that_are_up_are_handed_over_and_adopted_and_those_that_leave_are_ended():
    async def main():
        ended = []
        pool = SamplerPool(3, start := Starter("sampler-2"), ended.append)
        with pytest.raises(StartError):
            await pool.refill()  # two are up, although the third has failed
        pool.leave("sampler-1")
        found = pool.hand_over()
        assert found == {"sampler-0": start.started["sampler-0"]}
        assert (ended, start.started["sampler-1"].events) == (["sampler-1"], ["kill"])
        await settle(rounds=5)
        assert asyncio.all_tasks() == {asyncio.current_task()}  # nobody watches them any more

        other = SamplerPool(2, again := Starter())
        other.adopt({"sampler-7": found["sampler-0"]})
        await other.refill()
        assert list(other.live) == ["sampler-7", "sampler-8"]
        assert list(again.started) == ["sampler-8"]
        found["sampler-0"].die()
        await settle(rounds=5)
        assert other.lost == [("sampler-7", "gone")]
        await other.shutdown()

    asyncio.run(main())


def test_shutdown_stops_engines_before_their_processes_and_survives_a_bad_one():
    class Bad(FakeProcess):
        async def shutdown(self):
            raise PeerLostError("already gone")

    async def main():
        processes = iter([FakeProcess("a"), Bad("b")])

        async def start(name):
            return next(processes)

        pool = SamplerPool(2, start)
        await pool.refill()
        a, b = pool.live.values()
        await pool.shutdown()
        assert (a.events, b.events) == (["shutdown", "kill"], ["kill"])
        await settle(rounds=3)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert pool.lost == []

    asyncio.run(main())


def test_shutdown_does_not_wait_for_an_engine_that_hangs(monkeypatch):
    monkeypatch.setattr("cluster.samplers._SHUTDOWN_S", 0.01)

    class Hanging(FakeProcess):
        async def shutdown(self):
            await asyncio.Event().wait()

    async def main():
        async def start(name):
            return Hanging(name)

        pool = SamplerPool(1, start)
        await pool.refill()
        (process,) = pool.live.values()
        await pool.shutdown()
        assert process.events == ["kill"]

    asyncio.run(main())


def test_each_is_up_by_itself_whatever_the_others_do():
    async def main():
        pool = SamplerPool(3, start := Starter("sampler-1"))
        start.open.clear()
        pool.begin()
        pool.begin()  # nothing more is missing
        await settle(lambda: len(start.started) == 3)
        assert pool.starting == ["sampler-0", "sampler-1", "sampler-2"]
        assert not pool.live
        start.open.set()
        await asyncio.wait_for(pool.changed.wait(), 5)
        await settle(lambda: not pool.starting)
        assert list(pool.live) == ["sampler-0", "sampler-2"]
        assert pool.lost == [("sampler-1", "sampler-1 did not start")]
        start.open.clear()
        pool.begin()
        await settle(lambda: "sampler-3" in start.started)
        start.started["sampler-0"].die()
        await settle(lambda: len(pool.lost) == 2)
        pool.begin()
        await settle(lambda: "sampler-4" in start.started)
        assert pool.starting == ["sampler-3", "sampler-4"]
        await pool.shutdown()  # does not wait for them
        assert pool.starting == []
        await settle(rounds=3)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_fault_that_is_no_loss_is_raised():
    async def main():
        async def start(name):
            raise ValueError("a bug")

        pool = SamplerPool(1, start)
        pool.begin()
        await asyncio.wait_for(pool.changed.wait(), 5)
        with pytest.raises(ValueError, match="a bug"):
            pool.begin()

    asyncio.run(main())
