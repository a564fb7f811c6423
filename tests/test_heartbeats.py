"""Heartbeats: silent processes are ended; first over fakes, then over frozen processes of Ray."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from cluster.heartbeats import Heartbeats
from cluster.pulse import Pulse
from wfr.protocols import PeerLostError
from wfr.supervision_config import SupervisionConfig
from wfr.testing import FakeClock, settle

RULES = SupervisionConfig(heartbeat_s=1, silent_s=5)


class Process:
    """Answers while it is well; `kind` says what it does otherwise."""

    def __init__(self, kind="well", events=None):
        self.kind, self.events, self.beats = kind, [] if events is None else events, 0
        self.heard = set()

    async def beat(self):
        self.beats += 1
        if self.kind == "dead":
            raise PeerLostError("gone")
        if self.kind != "well":
            await asyncio.Event().wait()
        return Pulse("node-1", self.heard)

    async def end_children(self):
        self.events.append("children")
        if self.kind == "frozen":
            await asyncio.Event().wait()

    def kill(self):
        self.events.append("kill")


class Bench:
    """Heartbeats over fakes and a clock that a test moves on."""

    def __init__(self, **processes):
        self.processes = processes
        self.clock = FakeClock()
        self.ended, self.records = [], []
        self.heartbeats = Heartbeats(
            RULES,
            lambda: self.processes,
            lambda name, why: self.ended.append((name, why)),
            lambda kind, values: self.records.append((kind, dict(values))),
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def play(self, script):
        async def main():
            watching = asyncio.create_task(self.heartbeats.watch())
            await script(self)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


def test_who_answers_lives_on_and_is_known_by_its_machine():
    async def script(bench):
        await bench.clock.pass_(60)
        assert bench.heartbeats.nodes == {"sampler-0": "node-1"}
        assert bench.heartbeats.silence() == {}
        assert bench.processes["sampler-0"].beats >= 55

    bench = Bench(**{"sampler-0": Process()})
    bench.play(script)
    assert bench.ended == []


def test_of_whom_workers_have_heard_is_not_asked_again_until_they_have_not():
    async def script(bench):
        sampler, worker = bench.processes["sampler-0"], bench.processes["worker-0"]
        await bench.clock.pass_(60)
        assert bench.heartbeats.nodes["sampler-0"] == "node-1"  # for this it was asked
        asked = sampler.beats
        assert asked in (1, 2)  # whose answer came first?
        assert worker.beats > 50
        worker.heard = set()
        await bench.clock.pass_(10)
        assert 8 <= sampler.beats - asked <= 10

    bench = Bench(**{"sampler-0": Process(), "worker-0": Process()})
    bench.processes["worker-0"].heard = {"sampler-0", "sampler-9"}
    bench.play(script)
    assert bench.ended == []


def test_who_freezes_is_ended_though_workers_had_heard_of_it(monkeypatch):
    monkeypatch.setattr("cluster.heartbeats._LAST_WORD_S", 0.01)

    async def script(bench):
        await bench.clock.pass_(20)
        bench.processes["sampler-0"].kind = "deaf"
        bench.processes["worker-0"].heard = set()
        await bench.clock.pass_(RULES.silent_s + 2 * RULES.heartbeat_s + 1)
        await settle(lambda: bench.ended)

    bench = Bench(**{"sampler-0": Process(), "worker-0": Process()})
    bench.processes["worker-0"].heard = {"sampler-0"}
    bench.play(script)
    assert [name for name, _ in bench.ended] == ["sampler-0"]


@pytest.mark.parametrize("kind", ["deaf", "frozen"])
def test_who_is_silent_is_ended_with_its_children_and_told_once(kind, monkeypatch):
    monkeypatch.setattr("cluster.heartbeats._LAST_WORD_S", 0.01)

    async def script(bench):
        await bench.clock.pass_(5)
        assert bench.ended == []
        assert bench.heartbeats.silence() == {"sampler-0": 3}
        await bench.clock.pass_(2)
        while not bench.ended:
            await asyncio.sleep(0.001)
        await bench.clock.pass_(60)

    bench = Bench(**{"sampler-0": Process(kind), "worker-0": Process()})
    bench.play(script)
    ((name, why),) = bench.ended
    assert (name, why) == ("sampler-0", "has not answered for 5 s and was ended")
    assert bench.processes["sampler-0"].events == ["children", "kill"]
    assert bench.records == [("silent", {"name": name, "why": why, "silent": {"sampler": 1}})]


def test_a_dead_process_is_the_business_of_others():
    async def script(bench):
        await bench.clock.pass_(60)

    bench = Bench(**{"sampler-0": Process("dead")})
    bench.play(script)
    assert bench.ended == []


def test_a_replacement_under_an_old_name_has_all_its_time():
    async def script(bench):
        await bench.clock.pass_(5)
        bench.processes = {"worker-0": Process("deaf")}
        await bench.clock.pass_(5)
        assert bench.ended == []
        await bench.clock.pass_(2)
        await settle(lambda: bench.ended)

    bench = Bench(**{"worker-0": Process("deaf")})
    bench.play(script)
    assert len(bench.ended) == 1


def test_a_late_answer_of_the_one_before_does_not_speak_for_the_new_one():
    class Late(Process):
        async def beat(self):
            await go.wait()
            return Pulse("node-0")

    async def script(bench):
        nonlocal go
        go = asyncio.Event()
        await bench.clock.pass_(2)
        bench.processes = {"worker-0": Process("deaf")}
        await bench.clock.pass_(3)
        go.set()
        await bench.clock.pass_(6)
        await settle(lambda: bench.ended)

    go = None
    bench = Bench(**{"worker-0": Late()})
    bench.play(script)
    assert len(bench.ended) == 1


def _hosted_classes():
    """Classes as Ray hosts them: one that waits, one that works in its thread, one with a child."""
    import ray

    from cluster.heart import HEART, Heart, node

    class Sleeper(Heart):
        async def pid(self):
            return os.getpid()

        async def wait(self):
            await asyncio.Event().wait()

    class Rank:
        def step(self, seconds):
            time.sleep(seconds)  # as a step does: it blocks its thread
            return "stepped"

        @ray.method(concurrency_group=HEART)
        def beat(self):
            return Pulse(node())

    class Engine(Sleeper):
        async def start(self):
            self._child = psutil.Popen(["sleep", "600"])
            return self._child.pid

        async def beat(self):
            while self._child.status() == psutil.STATUS_STOPPED:
                await asyncio.sleep(0.1)
            return Pulse(node())

    return Sleeper, Rank, Engine


async def _freeze(heartbeats, processes):
    """Freeze a worker and a sampler's engine while a rank takes a step; wait for what follows."""
    pid = await processes["worker-0"].pid()
    child = await processes["sampler-0"].start()
    running = [asyncio.ensure_future(processes[n].wait()) for n in ("worker-0", "sampler-0")]
    watching = asyncio.create_task(heartbeats.watch())
    step = asyncio.ensure_future(processes["learner-0"].step(5))
    while len(heartbeats.nodes) < 3:
        await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGSTOP)
    os.kill(child, signal.SIGSTOP)
    lost = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(error, PeerLostError) for error in lost)
    assert await step == "stepped"
    watching.cancel()
    for each in (pid, child):
        while _runs(each):
            await asyncio.sleep(0.1)


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.engine
@pytest.mark.timeout(120)
def test_frozen_processes_of_ray_are_ended_whatever_they_were_doing():
    """A frozen actor dies; a frozen child of a live one does too; a rank at work answers."""
    import ray

    from cluster.heart import HEART
    from cluster.remote import host

    ended = []

    async def main():
        sleeper, rank, engine = _hosted_classes()
        options = {"num_cpus": 0}
        processes = {
            "worker-0": host(sleeper, options=options),
            "sampler-0": host(engine, options=options),
            "learner-0": host(rank, options={**options, "max_concurrency": 1}, groups={HEART: 1}),
        }
        heartbeats = Heartbeats(
            SupervisionConfig(heartbeat_s=0.2, silent_s=2),
            lambda: processes,
            lambda name, why: ended.append(name),
            lambda *_: None,
        )
        await _freeze(heartbeats, processes)

    ray.init(
        num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=80 << 20
    )
    try:
        asyncio.run(asyncio.wait_for(main(), 90))
    finally:
        ray.shutdown()
    assert sorted(ended) == ["sampler-0", "worker-0"]
