"""Scaling: one slice of a large system in the place of all of it.

A system of k equal slices, each with a k-th of the samplers, the groups per batch, the learner's
GPUs and the places of operators, behaves like one slice, but for chance: a mean over fewer episodes
varies more, and the slowest of fewer groups is less slow. Simulating a slice takes a k-th of the
time. What is counted is multiplied by k again.
"""

from __future__ import annotations

import dataclasses
import math

from wfr.planner.outcome import Outcome
from wfr.planner.scenario import Scenario


def slices(scenario: Scenario, at_most: int) -> int:
    """The largest number of equal slices up to `at_most` that the counts can be divided into."""
    whole = math.gcd(scenario.sampler.count, scenario.training.groups_per_batch)
    for operator in scenario.operators.values():
        whole = math.gcd(whole, operator.places or 0)
    return max(k for k in range(1, max(1, min(at_most, whole)) + 1) if whole % k == 0)


def one_of(scenario: Scenario, count: int) -> Scenario:
    """One of `count` equal slices; `count` divides samplers, batches and places."""
    operators = {
        name: operator.model_copy(update={"places": operator.places and operator.places // count})
        for name, operator in scenario.operators.items()
    }
    learner, training = scenario.learner, scenario.training
    return scenario.model_copy(
        update={
            "sampler": scenario.sampler.model_copy(
                update={"count": scenario.sampler.count // count}
            ),
            # The learner's GPUs need not divide: what counts is their speed.
            "learner": learner.model_copy(
                update={"tokens_per_s": learner.tokens_per_s * learner.gpus / count, "gpus": 1}
            ),
            "operators": operators,
            "training": training.model_copy(
                update={"groups_per_batch": training.groups_per_batch // count}
            ),
        }
    )


def whole(outcome: Outcome, scenario: Scenario, count: int) -> Outcome:
    """What the outcome of one of `count` slices says of the whole `scenario`."""
    machines = scenario.gpu.count * scenario.gpu.usd_per_hour
    calls = outcome.usd_per_hour - machines  # the slice was charged for all machines
    return dataclasses.replace(
        outcome,
        trajectories=outcome.trajectories * count,
        policy_tokens=outcome.policy_tokens * count,
        turn_lags={lag: turns * count for lag, turns in outcome.turn_lags.items()},
        operators={
            name: used if scenario.operators[name].places else used * count
            for name, used in outcome.operators.items()
        },
        discarded_groups=outcome.discarded_groups * count,
        usd_per_hour=machines + calls * count,
        slice=count,
    )
