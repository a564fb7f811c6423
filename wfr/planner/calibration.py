"""Calibration: the rates of a scenario from recorded runs.

*Samplers.* How many episodes were sampled at once, and how fast: `wfr.planner.batching_curve`.

*Learner.* The line through seconds and tokens of the steps. Where some of them ran beside busy
samplers and others did not, the speed of the former is found by comparing.

*Operators in the sandbox* have as many places as it has processes. What they took is the time from
when a place was free, so that the queue that a run had is not a part of it; other operators keep
the latencies that were recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wfr.planner.batching_curve import fit
from wfr.planner.distributions import Empirical
from wfr.planner.recorded_run import RecordedRun
from wfr.planner.scenario import (
    GpuConfig,
    LearnerPlan,
    OperatorPlan,
    PublishPlan,
    SamplerPlan,
    Scenario,
    SharedPlan,
    TrainingPlan,
)


def calibrate(runs: Sequence[RecordedRun]) -> Scenario:
    """The scenario of the first of `runs`, with the rates of all of them together."""
    first = runs[0]
    places = int(first.setting("sampler.max_num_seqs"))
    engines, ranks = int(first.setting("sampler.count")), int(first.setting("learner.ranks"))
    sampling = fit(runs, engines, places)
    points = sorted({1, max(1, places // 4), max(1, places // 2), places})
    learner, learner_speed = _training(runs)
    skips = first.config.get("objective", {}).get("zero_variance") == "drop"
    gpus = int(first.setting("sampler.tensor_parallel"))
    return Scenario(
        name=str(first.setting("run.name")),
        gpu=GpuConfig(name="processor", count=engines * gpus + ranks),
        sampler=SamplerPlan(
            count=engines,
            gpus=gpus,
            max_num_seqs=places,
            curve={n: sampling.rate(n) for n in points},
        ),
        learner=LearnerPlan(
            gpus=ranks, tokens_per_s=learner[1] / ranks, step_s=learner[0], skips_flat=skips
        ),
        publish=PublishPlan(
            seconds=(publish_s := _publishing(runs)),
            pause_s=publish_s,
            overlap=_overlaps(first),
        ),
        operators=_sandboxed(runs),
        shared=SharedPlan(sampler_speed=sampling.speed, learner_speed=learner_speed),
        training=TrainingPlan(
            groups_per_batch=int(first.setting("train.groups_per_batch")),
            group_size=int(first.setting("rollout.group_size")),
            max_lag=int(first.setting("buffer.max_lag")),
            window=int(first.setting("buffer.window")),
            stragglers=first.setting("buffer.stragglers"),
        ),
    )


def _publishing(runs: Sequence[RecordedRun]) -> float:
    """Mean seconds of a publication."""
    return float(np.mean([step.publish_s for run in runs for step in run.steps]))


def _sandboxed(runs: Sequence[RecordedRun]) -> dict[str, OperatorPlan]:
    """The operators that run programs, with what their calls took once they had a place."""
    found = {}
    for name in _IN_SANDBOX:
        seconds: list[float] = []
        places = 1
        for run in runs:
            places = int(run.setting("sandbox.processes")) * int(run.setting("rollout.workers"))
            seconds += service_seconds(run.calls(name), places)
        if seconds:
            found[name] = OperatorPlan(
                latency_s=Empirical(values=tuple(round(value, 6) for value in seconds)),
                places=places,
            )
    return found


def service_seconds(calls: Sequence[tuple[float, float]], places: int) -> list[float]:
    """What calls took from when one of `places` was free for them, in the order of their ends.

    Args:
        calls: begin and end of each, queueing included; who came first was served first.
        places: calls that were carried out at once.
    """
    ended: list[float] = []
    seconds = []
    for begin, end in sorted(calls, key=lambda call: call[1]):
        free = ended[-places] if len(ended) >= places else begin
        seconds.append(end - min(end, max(begin, free)))
        ended.append(end)
    return seconds


def _overlaps(run: RecordedRun) -> bool:
    wanted = run.setting("weights.overlap")
    return bool(wanted if wanted is not None else run.setting("learner.zero_stage") < 3)


def _line(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The best line a + b·x with a and b of at least 0, by weighted least squares."""
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = float(np.average((x - mean_x) ** 2, weights=weight))
    slope = np.average((x - mean_x) * (y - mean_y), weights=weight) / spread if spread else 0.0
    slope = float(np.clip(slope, 0.0, mean_y / mean_x if mean_x > 0 else 0.0))
    return float(mean_y - slope * mean_x), slope


def _training(runs: Sequence[RecordedRun]) -> tuple[tuple[float, float], float]:
    """Fixed seconds of a step and tokens/s of all ranks, and the speed beside busy samplers."""
    steps = [step for run in runs for step in run.steps]
    seconds = np.array([step.end - step.begin for step in steps])
    tokens = np.array([step.tokens for step in steps], float)
    busy = np.concatenate([_busy_shares(run) for run in runs])
    calm = busy < _CALM
    speed = 1.0
    if min(calm.sum(), (~calm).sum()) >= _FEW:
        fixed, each = _line(tokens[calm], seconds[calm], np.ones(int(calm.sum())))
        needed = (fixed + each * tokens)[~calm]
        slowed = float(np.clip(needed.sum() / seconds[~calm].sum(), _SLOWEST, 1.0))
        share = float(busy[~calm].mean())
        speed = float(np.clip(1 - (1 - slowed) / share, _SLOWEST, 1.0))
    alone = seconds * (1 - (1 - speed) * busy)
    fixed, each = _line(tokens, alone, np.ones(len(tokens)))
    return (fixed, 1 / max(each, 1e-9)), speed


def _busy_shares(run: RecordedRun) -> np.ndarray:
    """Share of each step's time in which something was sampled: float64 [steps]."""
    stretches = sorted((s.begin, s.end) for s in run.stretches())
    merged: list[list[float]] = []
    for begin, end in stretches:
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    begins, ends = np.array(merged).T
    shares = []
    for step in run.steps:
        common = np.minimum(ends, step.end) - np.maximum(begins, step.begin)
        shares.append(np.maximum(common, 0).sum() / max(step.end - step.begin, 1e-9))
    return np.array(shares)


_IN_SANDBOX = ("Programmer", "Test")
_FEW = 5
"""Steps that a comparison needs on either side."""
_CALM = 0.1
"""A step counts as undisturbed where samplers worked for less than this share of it."""
_SLOWEST = 0.05
