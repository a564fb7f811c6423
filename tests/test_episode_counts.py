"""What a worker counts of its episodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_groups import trajectory

from wfr.episode_counts import BOUNDS, EpisodeCounts, EpisodeTotals
from wfr.trajectory import OperatorCall, StopReason

CALLS = (
    OperatorCall("Search", "bm25", 0.004),
    OperatorCall("Search", "bm25", 0.3, cache_hit=True),
    OperatorCall("Programmer", "sandbox", 500.0, status="timeout"),
)


def played(reason=StopReason.ANSWERED, calls=CALLS):
    row = trajectory(0, 0, np.random.default_rng(1))
    return dataclasses.replace(row, stop_reason=reason, operator_calls=list(calls))


def test_an_episode_is_counted_once():
    counts = EpisodeCounts()
    counts.note(played())
    counts.note(played(StopReason.BACKEND_FAILED, ()))
    counts.retried(StopReason.BACKEND_FAILED)
    assert counts.drain() == (
        {
            "episodes/ended": {"answered": 1, "backend_failed": 1},
            "episodes/retried": {"backend_failed": 1},
            "episodes/turns": {"tool": 2, "answer": 2},
            "operators/statuses": {"ok": 2, "timeout": 1},
            "operators/sandbox": {"timeout": 1},
        },
        {"Search": {"0.005": 1}, "Programmer": {"1000000000.0": 1}},
    )
    assert counts.drain() == ({}, {})


@given(st.lists(st.floats(0, 200), max_size=30))
def test_every_call_is_under_the_smallest_bound_that_holds_it(seconds):
    counts = EpisodeCounts()
    counts.note(played(calls=[OperatorCall("Search", "bm25", value) for value in seconds]))
    _, latencies = counts.drain()
    found = sorted(float(b) for b, n in latencies.get("Search", {}).items() for _ in range(n))
    wanted = sorted(min((b for b in BOUNDS if b >= value), default=1e9) for value in seconds)
    assert found == pytest.approx(wanted)


def test_totals_grow_and_latencies_are_told_once():
    totals = EpisodeTotals()
    for _ in range(2):
        totals.add({"episodes/ended": {"answered": 1}}, {"Search": {"0.01": 3}})
    assert totals.record() == {
        "episodes/ended": {"answered": 2},
        "operators/seconds": {"Search": {"0.01": 6}},
    }
    totals.add({"episodes/ended": {"finished": 1}}, {})
    assert totals.record() == {
        "episodes/ended": {"answered": 2, "finished": 1},
        "operators/seconds": {},
    }
