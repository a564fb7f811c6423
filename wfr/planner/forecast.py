"""A forecast: an hour of a scenario, by as much simulation as that takes."""

from __future__ import annotations

import itertools
import statistics

import numpy as np

from wfr.planner import scaling
from wfr.planner.outcome import Outcome
from wfr.planner.samplers import token_seconds
from wfr.planner.scenario import Scenario
from wfr.planner.simulation import Simulation, workload_of
from wfr.planner.workload import Workload

MOST_TURNS = 1_000_000
"""Turns that one simulation has at most; a system with more is cut into slices."""


def forecast(
    scenario: Scenario,
    workload: Workload | None = None,
    *,
    hours: float = 1.0,
    seed: int = 1,
    most_turns: int = MOST_TURNS,
) -> Outcome:
    """Simulate so many hours; a large system by one of its equal slices.

    Raises:
        ValueError: neither the scenario nor `workload` says what episodes are like.
    """
    workload = workload_of(scenario, workload)
    expected = turns_per_second(scenario, workload, seed) * 3600 * hours
    count = scaling.slices(scenario, int(expected / most_turns) + 1)
    part = Simulation(scaling.one_of(scenario, count), workload, seed)
    return scaling.whole(part.run(seconds=3600 * hours), scenario, count)


def turns_per_second(scenario: Scenario, workload: Workload, seed: int = 1) -> float:
    """Turns that samplers and learner can do at most: the smaller of the two bounds."""
    drawn = itertools.islice(workload.groups(np.random.default_rng(seed), 1), _DRAWN)
    played = [group.siblings[0] for group in drawn]
    turns = statistics.mean(len(each.tokens) for each in played)
    sampled = statistics.mean(sum(each.tokens) for each in played)
    trained = statistics.mean(each.length for each in played)
    plan, learner = scenario.sampler, scenario.learner
    places = plan.max_num_seqs
    decoded = plan.count * places / token_seconds(plan)[places]
    return turns * min(decoded / sampled, learner.gpus * learner.tokens_per_s / trained)


_DRAWN = 256
