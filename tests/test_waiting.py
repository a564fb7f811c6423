"""Who waits for whom, and when it is said that nothing moves."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.stalls import StallWatch
from cluster.waiting import Snapshot, Wait, chain, told, waits
from wfr.supervision_config import SupervisionConfig
from wfr.testing import FakeClock

PLAYING = {"free": 0, "in_flight": 32, "finished": 3, "taken": 0}
WELL = Snapshot(
    loop=("groups", 310.0),
    publisher=("steps", 310.0),
    mender=("losses", 900.0),
    slots=PLAYING,
    workers={
        "worker-0": {"slot": (1, 9.0), "sampler": (200, 300.0), "own": (3, 0.1)},
        "worker-1": {"slot": (1, 9.0), "sampler": (2, 1.0), "operator": (1, 1.0)},
    },
    samplers={"sampler-0": (128, False), "sampler-1": (64, False)},
)


def _story(**changes):
    return told(chain(waits(dataclasses.replace(WELL, **changes))))


_BUFFER = "buffer has slots: 0 free, 32 being played, 3 finished, 0 taken"
_TO_SAMPLERS = (
    f"training loop waits for groups for 310 s ← {_BUFFER} ← "
    "worker-0 has 200 episodes that wait for a sampler for 300 s"
)


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (
            {"silent": {"sampler-1": 35.0}},
            f"{_TO_SAMPLERS} ← sampler-1 has not answered for 35 s",
        ),
        (
            {"samplers": {"sampler-1": (64, True)}, "publisher": ("pool", 12.0)},
            f"{_TO_SAMPLERS} ← sampler-1 holds 64 requests still for new weights ← "
            "publisher waits for samplers for 12 s ← mender has nothing to replace for 900 s",
        ),
        ({"samplers": {}}, _TO_SAMPLERS),
        (
            {
                "workers": {"worker-0": {"operator": (512, 80.0)}},
                "executors": "are not asked: executor gpt is down for 80 s; 512 calls wait",
            },
            "worker-0 has 512 episodes that wait for an operator for 80 s ← executors are not "
            "asked: executor gpt is down for 80 s; 512 calls wait",
        ),
        ({"disk_full": True}, "worker-0 waits for room on the disk ← disk is full"),
        ({"slots": None, "silent": {"buffer-0": 7.0}}, "← buffer has not answered for 7 s"),
        ({"workers": {"worker-0": None}}, f"← {_BUFFER} ← worker-0 has not answered"),
        (
            {"loop": ("train", 70.0), "silent": {"learner-1": 65.0}},
            "waits for a step of the learner for 70 s ← learner-1 has not answered for 65 s",
        ),
        (
            {"loop": ("publish", 70.0), "publisher": ("weights", 69.0), "mender": ("starting", 68)},
            "publisher waits until samplers have joined for 69 s ← mender starts samplers; is "
            "there a place for them? for 68 s",
        ),
    ],
)
def test_the_chain_ends_at_who_holds_the_run_up(changes, end):
    assert _story(**changes).endswith(end)


def test_slots_that_wait_for_a_publication_lead_back_and_end_the_chain():
    full = {"free": 0, "in_flight": 0, "finished": 0, "taken": 32}
    story = _story(slots=full)
    assert story.endswith("← buffer has slots: 0 free, 0 being played, 0 finished, 32 taken")


@given(
    st.lists(
        st.builds(
            Wait,
            st.sampled_from(["training loop", "buffer", "worker-0", "worker-1", "sampler-0"]),
            st.just("waits"),
            st.sampled_from(["", "training loop", "buffer", "worker", "sampler", "nobody"]),
            st.floats(0, 1e6),
        ),
        max_size=12,
    )
)
def test_every_chain_ends(rows):
    found = chain(rows)
    assert len(found) == len(set(found)) <= len(rows)
    for before, after in itertools.pairwise(found):
        assert before.on in (after.who, after.who.partition("-")[0])


def _watch(**rules):
    clock = FakeClock()
    return clock, StallWatch(SupervisionConfig(stall_s=100, **rules), clock)


def test_a_stall_is_told_at_once_then_more_and_more_seldom():
    clock, watch = _watch()
    told_at = []
    for moment in range(0, 1000, 10):
        clock.now = moment
        if watch.due():
            told_at.append(moment)
    assert told_at == [100, 200, 400, 800]
    assert watch.count == 1
    assert watch.stepped() == 990
    assert not watch.due()


def test_steps_in_time_are_no_stall():
    clock, watch = _watch()
    for moment in range(0, 1000, 90):
        clock.now = moment
        assert not watch.due()
        assert watch.stepped() == 0
    clock.now += 100
    assert watch.due()
    assert watch.count == 1


def test_it_is_hopeless_only_where_that_was_said():
    clock, watch = _watch()
    clock.now = 1e9
    assert not watch.hopeless
    clock, watch = _watch(restart_s=500)
    clock.now = 499
    assert not watch.hopeless
    clock.now = 500
    assert watch.hopeless
    watch.stepped()
    assert not watch.hopeless
