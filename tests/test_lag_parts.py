"""Where a lag arose: against a walk that moves one version at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wfr.lag_parts import LagParts, histograms
from wfr.staleness import lag

TURNS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3)).map(lambda t: (t[0], t[0] + t[1])),
    min_size=1,
    max_size=8,
)


def parts(turns, version):
    oldest, newest = (np.array(column, np.int64) for column in zip(*turns, strict=True))
    return LagParts.of(oldest, newest, version)


def walk(turns, turn, version):
    """One version after the other, from the oldest token of a turn to the step that used it."""
    clock, found = turns[turn][0], {"sampling": 0, "environment": 0, "queue": 0}
    for oldest, newest in turns[turn:]:
        while clock < oldest:
            clock += 1
            found["environment"] += 1
        while clock < newest:
            clock += 1
            found["sampling"] += 1
    while clock < version:
        clock += 1
        found["queue"] += 1
    return found


@given(TURNS, st.integers(0, 4))
def test_parts_are_those_of_a_slow_walk_and_add_up(turns, after):
    version = max(newest for _, newest in turns) + after
    split = parts(turns, version)
    for turn in range(len(turns)):
        slow = walk(turns, turn, version)
        assert split.sampling[turn] == slow["sampling"]
        assert split.environment[turn] == slow["environment"]
        assert split.queue[turn] == slow["queue"]
        assert split.lag[turn] == lag(version, turns[turn][0])
        assert split.spread[turn] == turns[turn][1] - turns[turn][0]


def test_an_example_by_hand():
    """An update in the first turn, two while an operator ran, one while the group waited."""
    split = parts([(3, 4), (6, 6)], 7)
    assert split.sampling.tolist() == [1, 0]
    assert split.environment.tolist() == [2, 0]
    assert split.queue.tolist() == [1, 1]
    assert split.lag.tolist() == [4, 1]


def test_histograms_count_every_turn():
    found = histograms([parts([(3, 4), (6, 6)], 7), parts([(7, 7)], 7)])
    assert found["lag/turn_total"] == {0: 1, 1: 1, 4: 1}
    assert found["lag/turn_sampling"] == {0: 2, 1: 1}
    assert found["lag/turn_kv_age"] == {0: 2, 1: 1}
    assert all(sum(histogram.values()) == 3 for histogram in found.values())


def test_an_episode_without_a_turn_counts_nowhere():
    nothing = np.zeros(0, np.int64)
    assert histograms([LagParts.of(nothing, nothing, 5)])["lag/turn_total"] == {}
