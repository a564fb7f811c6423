"""The benchmark of the planner: its search is the same but later, its arms say one thing twice."""

from __future__ import annotations

import asyncio
import time

from benchmarks.planner import CALIBRATION, PREDICTED
from benchmarks.slow_search import SlowSearch
from wfr.operators.base import Outcome, Scope
from wfr.planner.distributions import LogNormal
from wfr.planner.scenario_file import parse_scenario
from wfr.trajectory import OperatorCall


class Echo:
    async def call(self, argument, scope):
        return Outcome(argument, OperatorCall("Search", "bm25", 0.001, ended_at=1.0))


def test_the_wait_is_a_part_of_the_call():
    search = SlowSearch(Echo(), LogNormal(median=0.01, p99=0.02))
    started = time.time()
    outcome = asyncio.run(search.call("who", Scope("t")))
    assert outcome.text == "who"
    assert 0.001 < outcome.call.seconds <= time.time() - started + 0.001
    assert started < outcome.call.ended_at <= time.time()


def test_every_arm_says_the_same_to_the_run_and_to_the_planner():
    plan = parse_scenario(
        {"gpu": {"count": 2}, "sampler": {"curve": {1: 1}}, "learner": {"tokens_per_s": 1}}
    )
    for arm in (*CALIBRATION.values(), *PREDICTED.values()):
        changed, told = arm.scenario(plan), arm.overrides()
        assert f"buffer.max_lag={changed.training.max_lag}" in told
        for key, value in (
            ("rollout.group_size", changed.training.group_size),
            ("train.groups_per_batch", changed.training.groups_per_batch),
            ("sampler.max_num_seqs", changed.sampler.max_num_seqs),
        ):
            assert (f"{key}={value}" in told) == (key in arm.changes)
        assert bool(arm.latency) == ("Search" in changed.operators)
