"""Calibration: the rates of a scenario from recorded runs.

*Batching curve.* Over the stretches in which episodes were sampled, n(t) of them went on at once,
and each gave its tokens evenly over its length, which makes a rate R(t). Time is sorted into bins
of n; in each, the mean time of a token, τ = n / R, is known, and the line τ = a + b·n that fits
them best, each weighted by its tokens, is the curve. What is inside these stretches besides
decoding (prompts, pauses, a worker's own work) is a part of it, so that it appears nowhere else.

*Learner.* The line through seconds and tokens of the steps.

*Shared processors.* While the learner trains, tokens take τ / f; a step beside busy samplers takes
1 / g as long. Where the runs show both, f and g are found by comparing; else they are 1.

*Operators in the sandbox* have as many places as it has processes. What they took is the time from
when a place was free, so that the queue that a run had is not a part of it; other operators keep
the latencies that were recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

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


@dataclasses.dataclass(frozen=True, slots=True)
class Timeline:
    """Pieces of a run within which nothing began or ended; one entry per piece.

    Attributes:
        seconds: float64 [pieces].
        requests: episodes being sampled at once: float64 [pieces].
        rate: tokens/s of all of them: float64 [pieces].
        trains: whether the learner worked: bool [pieces].
    """

    seconds: np.ndarray
    requests: np.ndarray
    rate: np.ndarray
    trains: np.ndarray

    @classmethod
    def of(cls, run: RecordedRun) -> Timeline:
        """The pieces between the start of the first episode and the end of the last step."""
        stretches = [s for s in run.stretches() if s.end > s.begin]
        begin = np.array([s.begin for s in stretches])
        end = np.array([s.end for s in stretches])
        speed = np.array([s.tokens for s in stretches]) / (end - begin)
        count, last = np.ones(len(stretches)), run.steps[-1].end
        first = np.array([step.begin for step in run.steps])
        done = np.array([step.end for step in run.steps])
        steps = np.ones(len(run.steps))
        times = np.concatenate([begin, end, first, done])
        order = np.argsort(times, kind="stable")
        nothing = np.zeros(len(steps))
        changes = (
            np.concatenate([count, -count, nothing, nothing]),
            np.concatenate([speed, -speed, nothing, nothing]),
            np.concatenate([0 * count, 0 * count, steps, -steps]),
        )
        requests, rate, trains = (np.cumsum(change[order])[:-1] for change in changes)
        seconds = np.diff(times[order])
        kept = (seconds > 0) & (times[order][:-1] < last)
        return cls(seconds[kept], requests[kept], rate[kept], trains[kept] > 0)

    def where(self, chosen: np.ndarray) -> Timeline:
        """Some of the pieces."""
        parts = (getattr(self, field.name)[chosen] for field in dataclasses.fields(self))
        return Timeline(*parts)


def calibrate(runs: Sequence[RecordedRun]) -> Scenario:
    """The scenario of the first of `runs`, with the rates of all of them together."""
    first = runs[0]
    places = int(first.setting("sampler.max_num_seqs"))
    timelines = [Timeline.of(run) for run in runs]
    pieces = Timeline(
        *(
            np.concatenate([getattr(each, field.name) for each in timelines])
            for field in dataclasses.fields(Timeline)
        )
    )
    curve, sampler_speed = _sampling(pieces, int(first.setting("sampler.count")), places)
    learner, learner_speed = _training(runs)
    skips = first.config.get("objective", {}).get("zero_variance") == "drop"
    engines, ranks = int(first.setting("sampler.count")), int(first.setting("learner.ranks"))
    gpus = int(first.setting("sampler.tensor_parallel"))
    return Scenario(
        name=str(first.setting("run.name")),
        gpu=GpuConfig(name="processor", count=engines * gpus + ranks),
        sampler=SamplerPlan(count=engines, gpus=gpus, max_num_seqs=places, curve=curve),
        learner=LearnerPlan(
            gpus=ranks, tokens_per_s=learner[1] / ranks, step_s=learner[0], skips_flat=skips
        ),
        publish=PublishPlan(
            seconds=float(np.mean([step.publish_s for run in runs for step in run.steps])),
            overlap=_overlaps(first),
        ),
        operators=_sandboxed(runs),
        shared=SharedPlan(sampler_speed=sampler_speed, learner_speed=learner_speed),
        training=TrainingPlan(
            groups_per_batch=int(first.setting("train.groups_per_batch")),
            group_size=int(first.setting("rollout.group_size")),
            max_lag=int(first.setting("buffer.max_lag")),
            window=int(first.setting("buffer.window")),
            stragglers=first.setting("buffer.stragglers"),
        ),
    )


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


def _sampling(pieces: Timeline, engines: int, places: int) -> tuple[dict[int, float], float]:
    """Batching curve of one engine, and its speed while the learner trains."""
    busy = pieces.where(pieces.requests > 0)
    alone, beside = busy.where(~busy.trains), busy.where(busy.trains)
    both = min(_tokens(alone), _tokens(beside)) > _ENOUGH * _tokens(busy)
    line = _token_line(alone if both else busy, engines, places)
    speed = 1.0
    if both:
        requests = np.minimum(beside.requests / engines, places)
        needed = _tokens_of(beside) * (line[0] + line[1] * requests) / np.maximum(requests, 1e-9)
        speed = float(np.clip(needed.sum() / engines / beside.seconds.sum(), _SLOWEST, 1.0))
    points = sorted({1, max(1, places // 4), max(1, places // 2), places})
    return {n: n / (line[0] + line[1] * n) for n in points}, speed


def _token_line(pieces: Timeline, engines: int, places: int) -> tuple[float, float]:
    """A and b of τ = a + b·n, both at least 0."""
    requests = np.minimum(pieces.requests / engines, places)
    edges = np.unique(np.round(np.geomspace(1, max(2, requests.max()) + 1, _BINS)))
    bins = np.digitize(requests, edges)
    found = []
    for index in np.unique(bins):
        chosen = bins == index
        seconds = pieces.seconds[chosen]
        tokens = float(_tokens_of(pieces)[chosen].sum()) / engines
        mean = float((requests[chosen] * seconds).sum() / seconds.sum())
        if tokens > 0:
            found.append((mean, mean * float(seconds.sum()) / tokens, tokens))
    n, tau, weight = np.array(found).T
    return _line(n, tau, weight)


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


def _tokens_of(pieces: Timeline) -> np.ndarray:
    tokens: np.ndarray = pieces.rate * pieces.seconds
    return tokens


def _tokens(pieces: Timeline) -> float:
    return float(_tokens_of(pieces).sum())


_IN_SANDBOX = ("Programmer", "Test")
_ENOUGH = 0.1
"""Share of the tokens that a comparison needs on either side."""
_FEW = 5
"""Steps that it needs."""
_CALM = 0.1
"""A step counts as undisturbed where samplers worked for less than this share of it."""
_SLOWEST = 0.05
_BINS = 12
