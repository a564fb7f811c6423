"""Tuning: two constants of a calibrated scenario, by which simulation and recorded runs agree.

What a journal tells of the sampler's speed is blurred, because turns have no times of their own
within a stretch. So the batching curve is scaled until the pace of the runs of the smallest lag is
right, and then the speed of samplers while the learner trains is changed until that of the largest
lag is. The latter then stands for all that samplers lose to others at work. A run's pace is its
steps per hour after the first step, which pays for what happens once; that of several runs is the
median.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from wfr.planner.recorded_run import Recorded, RecordedRun
from wfr.planner.scenario import Scenario
from wfr.planner.simulation import Simulation


def tuned(scenario: Scenario, runs: Sequence[RecordedRun], seeds: int = 3) -> Scenario:
    """The scenario with both constants set by `runs`; with one run, or of one lag, only the first.

    Runs without a second step say nothing and change nothing.
    """
    paces: dict[int, list[float]] = {}
    for run in runs:
        if len(run.steps) > 1:
            paces.setdefault(_lag(run), []).append(run.pace)
    if not paces:
        return scenario
    steps = min(len(run.steps) for run in runs if len(run.steps) > 1) - 1
    workload = Recorded(list(runs), scenario.operators)

    def error(lag: int, candidate: Scenario) -> float:
        training = candidate.training.model_copy(update={"max_lag": lag})
        same = candidate.model_copy(update={"training": training})
        found = [
            Simulation(same, workload, seed).run(steps=steps, warmup_steps=1).steps_per_hour
            for seed in range(1, seeds + 1)
        ]
        return statistics.median(found) / statistics.median(paces[lag]) - 1

    first, last = min(paces), max(paces)
    by = _root(lambda factor: error(first, _scaled(scenario, factor)), 0.25, 4.0)
    scenario = _scaled(scenario, by)
    if last > first:
        slow = _root(lambda speed: error(last, _slowed(scenario, speed)), 0.1, 1.0)
        scenario = _slowed(scenario, slow)
    return scenario


def _lag(run: RecordedRun) -> int:
    return int(run.setting("buffer.max_lag"))


def _scaled(scenario: Scenario, factor: float) -> Scenario:
    """The scenario with a batching curve of `factor` times the speed."""
    curve = {n: rate * factor for n, rate in scenario.sampler.curve.items()}
    sampler = scenario.sampler.model_copy(update={"curve": curve})
    return scenario.model_copy(update={"sampler": sampler})


def _slowed(scenario: Scenario, speed: float) -> Scenario:
    """The scenario with samplers of this speed while the learner trains."""
    shared = scenario.shared.model_copy(update={"sampler_speed": speed})
    return scenario.model_copy(update={"shared": shared})


def _root(error: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is about zero, or the end that is nearer to it; by bisection."""
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if error(middle) > 0:
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


_HALVINGS = 9
