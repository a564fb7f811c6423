"""Phases: they add up, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.phases import PhaseClock, PhaseSum, shares
from wfr.testing import FakeClock

PHASES = st.sampled_from(["own", "sampler", "operator"])


@given(st.lists(st.tuples(PHASES, st.integers(0, 100))))
def test_seconds_are_those_of_a_replay(entered):
    now, expected, phase = 0.0, {}, "own"
    clock = PhaseClock(phase, lambda: now)
    for following, wait in entered:
        now += wait
        expected[phase] = expected.get(phase, 0.0) + wait
        phase = following
        clock.enter(phase)
    seconds = clock.seconds()
    assert {p: s for p, s in seconds.items() if s} == {p: s for p, s in expected.items() if s}
    assert sum(seconds.values()) == pytest.approx(now)


def test_a_block_goes_back_to_where_it_came_from_even_when_it_raises():
    clock = PhaseClock("own")
    with pytest.raises(KeyError), clock.within("train"), clock.within("publish"):
        raise KeyError
    clock.enter("own")
    assert set(clock.seconds()) == {"own", "train", "publish"}


def test_a_sum_tells_everything_once():
    spent = PhaseSum()
    with spent.clock("own") as first:
        with spent.clock("slot"), first.within("sampler"):
            told = spent.drain()
        again = spent.drain()
    last = spent.drain()
    totals = {p: told.get(p, 0) + again.get(p, 0) + last.get(p, 0) for p in first.seconds()}
    assert totals == pytest.approx(first.seconds(), abs=1e-3)
    assert spent.drain() == pytest.approx({"own": 0, "sampler": 0, "slot": 0})


@given(st.dictionaries(PHASES, st.floats(0, 1e6)), st.dictionaries(PHASES, st.floats(0, 1e6)))
def test_shares_add_up_to_one(before, grown):
    after = {p: before.get(p, 0) + grown.get(p, 0) for p in {*before, *grown}}
    found = shares(before, after)
    assert not found or sum(found.values()) == pytest.approx(1)
    assert all(0 <= share <= 1 for share in found.values())


def test_what_is_under_way_now_is_told_with_its_age():
    clock = FakeClock()
    mine = PhaseClock("own", clock)
    clock.now = 3
    assert mine.current() == ("own", 3)
    mine.seconds()
    clock.now = 4
    assert mine.current() == ("own", 4)
    mine.enter("sampler")
    clock.now = 6
    assert mine.current() == ("sampler", 2)
    assert mine.seconds() == {"own": 4, "sampler": 2}


def test_many_clocks_are_counted_by_phase():
    spent = PhaseSum()
    with spent.clock("own"), spent.clock("own") as other, spent.clock("slot"):
        other.enter("sampler")
        counts = {phase: count for phase, (count, _) in spent.now().items()}
        assert counts == {"own": 1, "sampler": 1, "slot": 1}
    assert spent.now() == {}
