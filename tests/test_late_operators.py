"""Operators that take their time: the same answers, later, and failures of the world."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from benchmarks import late_operators
from benchmarks.late_operators import PROFILES, Lateness, LateOperator
from wfr.operators.base import Outcome, Scope
from wfr.operators.library import declarations
from wfr.planner.distributions import LogNormal
from wfr.trajectory import OperatorCall, StopReason, WorldFailureError


class Echo:
    parameters = "echo"

    async def call(self, argument, scope):
        return Outcome(argument, OperatorCall("Search", "bm25", 0.001, ended_at=1.0))


def test_the_wait_is_a_part_of_the_call():
    search = LateOperator(Echo(), Lateness(LogNormal(median=0.01, p99=0.02)))
    started = time.time()
    outcome = asyncio.run(search.call("who", Scope("t")))
    assert outcome.text == "who"
    assert 0.001 < outcome.call.seconds <= time.time() - started + 0.001
    assert started < outcome.call.ended_at <= time.time()


def test_the_asked_share_of_calls_fails_as_the_world_does():
    search = LateOperator(Echo(), Lateness(LogNormal(median=1e-9, p99=1e-9), failures=0.2))

    async def failures():
        calls = (search.call("who", Scope("t")) for _ in range(500))
        return await asyncio.gather(*calls, return_exceptions=True)

    failed = [r for r in asyncio.run(failures()) if isinstance(r, WorldFailureError)]
    assert all(error.reason is StopReason.BACKEND_FAILED for error in failed)
    assert 70 <= len(failed) <= 130


@pytest.mark.parametrize(("profile", "p99"), [("LOG_NORMAL", 1.0), ("HEAVY_TAIL", 4.0)])
def test_profiles_have_the_quantiles_that_they_are_named_after(profile, p99):
    drawn = PROFILES[profile].latency.draw(np.random.default_rng(0), 200_000)
    assert np.median(drawn) == pytest.approx(0.2, rel=0.02)
    assert np.quantile(drawn, 0.99) == pytest.approx(p99, rel=0.05)


def test_every_declaration_stands_for_the_operator_of_its_name():
    for name in dir(late_operators):
        if name.startswith(("SEARCH_", "PROGRAMMER_")):
            found = declarations([f"benchmarks.late_operators:{name}"])
            assert list(found) == [name.partition("_")[0].title()]
