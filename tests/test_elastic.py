"""Elastic samplers over fake processes: in which order one leaves, and how one joins."""

from __future__ import annotations

import asyncio
import math

from tests.test_run_loop import Sampler, _records, _run


async def _until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def _found(run, topology):
    """Wait until the run knows where sampler-0 is; what that one is told becomes an event."""
    await _until(lambda: run._supervision.node("sampler-0"))
    topology.started[0].told = topology.events
    return topology.started[0]


QUICK = {"heartbeat_s": 0.02}


def test_a_machine_that_goes_is_left_in_order(tmp_path):
    """Workers ask others, turns end or move, the process ends, the group is rebuilt without it."""

    async def drain(run, topology):
        await _found(run, topology)
        topology.placing.leaving = {"node of sampler-0": 100.0}
        await _until(lambda: "workers know sampler-1,sampler-2" in topology.events)
        run.stop()

    events, summary, error = _run(
        tmp_path, samplers=2, steps=10**6, supervision=QUICK, meanwhile=drain
    )
    assert error is None
    assert summary["samplers_left"] == ["sampler-0: node node of sampler-0 goes"]
    assert summary["samplers_lost"] == []
    after = events[events.index("workers know sampler-1") :]
    order = ["leave sampler-0 in 20 s", "kill sampler-0", "connect sampler-1,sampler-2"]
    places = [after.index(event) for event in order]
    assert places == sorted(places)
    assert not [e for e in after if e.startswith("workers know") and "sampler-0" in e]
    (record,) = _records(tmp_path, "sampler_left")
    assert record["samplers/left"] == 1


def test_one_that_leaves_gets_the_updates_until_it_is_gone(tmp_path):
    class Busy(Sampler):
        async def leave(self, grace_s):
            begun = len(self.told)
            await _until(lambda: any(e.startswith("publish ") for e in self.told[begun:]))
            await super().leave(grace_s)

    async def drain(run, topology):
        (await _found(run, topology)).__class__ = Busy
        topology.placing.leaving = {"node of sampler-0": math.inf}
        await _until(lambda: "kill sampler-0" in topology.events)
        run.stop()

    events, summary, error = _run(
        tmp_path, samplers=2, steps=10**6, supervision=QUICK, meanwhile=drain
    )
    assert error is None
    told = events.index("leave sampler-0 in 20 s")
    assert "publish" in "".join(events[events.index("workers know sampler-1") : told])
    assert len(summary["samplers_left"]) == 1


def test_one_that_does_not_get_away_in_time_is_ended(tmp_path):
    """Nor does its death on the way count as a loss."""

    class Stuck(Sampler):
        async def leave(self, grace_s):
            await asyncio.Event().wait()

    async def drain(run, topology):
        (await _found(run, topology)).__class__ = Stuck
        topology.placing.leaving = {"node of sampler-0": 0.1}
        await _until(lambda: run._state.pool.left)
        assert "kill sampler-0" in topology.events
        run.stop()

    _, summary, error = _run(tmp_path, steps=10**6, supervision=QUICK, meanwhile=drain)
    assert error is None
    assert len(summary["samplers_left"]) == 1
    assert summary["samplers_lost"] == []


def test_a_machine_that_joins_gets_samplers_and_these_the_weights_first(tmp_path):
    async def join(run, topology):
        await _until(lambda: "published 2" in topology.events)
        topology.placing.free = 5
        await _until(lambda: any("sampler-2" in e for e in topology.events if "know" in e))
        run.stop()

    events, summary, error = _run(
        tmp_path, samplers=1, most=3, steps=10**6, supervision=QUICK, meanwhile=join
    )
    assert error is None
    assert summary["status"] == "stopped"
    everybody = events.index("workers know sampler-0,sampler-1,sampler-2")
    connected = events.index("connect sampler-0,sampler-1,sampler-2")
    assert any(e.startswith("publish ") for e in events[connected:everybody])
    assert not [e for e in events if "sampler-3" in e]


def test_what_is_lost_above_the_count_is_replaced_where_there_is_room_only(tmp_path):
    async def lose(run, topology):
        topology.placing.free = 1
        await _until(lambda: "workers know sampler-0,sampler-1" in topology.events)
        topology.started[1].dead.set()
        await _until(lambda: run._state.pool.lost)
        version = run._state.version
        await _until(lambda: run._state.version > version + 20)
        assert len(topology.started) == 2
        topology.started[0].dead.set()  # of the count: replaced wherever there will be a place
        await _until(lambda: "workers know sampler-2" in topology.events)
        run.stop()

    _, summary, error = _run(
        tmp_path, samplers=1, most=2, steps=10**6, supervision=QUICK, meanwhile=lose
    )
    assert error is None
    assert len(summary["samplers_lost"]) == 2
