"""The benchmark of the planner: its arms say one thing twice."""

from __future__ import annotations

from benchmarks.planner import CALIBRATION, PREDICTED
from wfr.planner.scenario_file import parse_scenario


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
