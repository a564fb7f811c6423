"""The batching curve out of recorded runs, and how much training slows sampling down.

While an episode is sampled among n of its engine, it gets a token every τ(n) = a + b·n seconds;
where there are more than the engine has places, it gets its share of these. While the learner
trains on the same processors all go on at f of the speed, and while weights are published not at
all. So the tokens of each stretch are an integral over its time, and a, b and f are those for which
integrals and counted tokens differ least, their sums being equal: least squares over all stretches.
What else is inside them (prompts, a worker's own work) becomes a part of the curve, and of nothing
else.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from wfr.planner.recorded_run import RecordedRun


@dataclasses.dataclass(frozen=True, slots=True)
class Timeline:
    """A run in pieces within which nothing began or ended, and its stretches as ranges of them.

    Attributes:
        seconds: of each piece: float64 [pieces].
        requests: episodes being sampled: float64 [pieces].
        trains: whether the learner worked: bool [pieces].
        paused: whether weights were published: bool [pieces].
        begin, end: of each stretch, its first piece and the one after its last: int64 [stretches].
        tokens: of each stretch: float64 [stretches].
    """

    seconds: np.ndarray
    requests: np.ndarray
    trains: np.ndarray
    paused: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, run: RecordedRun) -> Timeline:
        """From the first episode or step to the last step; what its end cuts off is left out."""
        last = run.steps[-1].end
        every = run.stretches()  # those that are cut off share the engine too
        begins, ends = np.array([(s.begin, s.end) for s in every]).T
        whole = (ends <= last) & (begins < ends)
        begin, end = begins[whole], ends[whole]
        first = np.array([step.begin for step in run.steps])
        done = np.array([step.end for step in run.steps])
        published = np.minimum(last, done + np.array([step.publish_s for step in run.steps]))
        times = np.unique(np.concatenate([begin, end, first, done, published]))
        return cls(
            np.diff(times),
            _level(times, zip(begins, ends, strict=True)),
            _level(times, zip(first, done, strict=True)) > 0,
            _level(times, zip(done, published, strict=True)) > 0,
            np.searchsorted(times, begin),
            np.searchsorted(times, end),
            np.array([s.tokens for s in every], float)[whole],
        )

    def progress(self, ratio: float, speed: float, engines: int, places: int) -> np.ndarray:
        """Tokens of each stretch, in units of 1 / b, where a = `ratio`·b: float64 [stretches]."""
        requests = np.maximum(self.requests / engines, 1.0)
        rate = np.minimum(1.0, places / requests) / (ratio + np.minimum(requests, places))
        rate *= np.where(self.paused, 0.0, np.where(self.trains, speed, 1.0))
        total = np.concatenate([[0.0], np.cumsum(rate * self.seconds)])
        found: np.ndarray = total[self.end] - total[self.begin]
        return found

    @property
    def disturbed(self) -> float:
        """Share of the sampled time in which the learner trained."""
        sampled = self.seconds * (self.requests > 0)
        return float(sampled[self.trains].sum() / sampled.sum())


def _level(times: np.ndarray, spans: Iterable[tuple[float, float]]) -> np.ndarray:
    """How many of the spans cover each piece between two times: float64 [pieces]."""
    change = np.zeros(len(times) + 1)
    for column, by in zip(np.array(list(spans)).T, (1, -1), strict=True):
        np.add.at(change, np.searchsorted(times, column), by)
    return np.cumsum(change)[: len(times) - 1]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Fit:
    """Constants of the model above, and how far it is from what was recorded.

    Attributes:
        error: sum of squares, in tokens.
        ratio: a / b.
        speed: f.
        each: b, in seconds.
    """

    error: float
    ratio: float
    speed: float
    each: float

    def rate(self, requests: int) -> float:
        """Tokens/s of an engine with so many requests."""
        return requests / (self.each * (self.ratio + requests))


def fit(runs: Sequence[RecordedRun], engines: int, places: int) -> Fit:
    """The constants that fit all of `runs` best, by grids that get finer."""
    timelines = [Timeline.of(run) for run in runs]
    disturbed = [timeline.disturbed for timeline in timelines]
    known = max(disturbed) > _SEEN and min(disturbed) < 1 - _SEEN
    tokens = np.concatenate([timeline.tokens for timeline in timelines])
    best = Fit(np.inf, 1.0, 1.0, 1.0)
    ratios = np.geomspace(0.1, 1000, 9)
    speeds = np.linspace(0.25, 1, 4) if known else np.ones(1)
    for _ in range(_ROUNDS):
        for ratio, speed in itertools.product(ratios, speeds):
            parts = [t.progress(ratio, speed, engines, places) for t in timelines]
            progress = np.concatenate(parts)
            each = float(progress.sum() / tokens.sum())
            error = float(np.square(progress / each - tokens).sum())
            best = min(best, Fit(error, float(ratio), float(speed), each))
        step = ratios[1] / ratios[0]
        ratios = best.ratio * np.geomspace(1 / step, step, 5)
        if known:
            reach = speeds[1] - speeds[0]
            speeds = np.clip(best.speed + reach * np.linspace(-1, 1, 5), _SLOWEST, 1)
    return best


_SEEN = 0.05
"""Least share of the time with, and without, training that tells the two apart."""
_ROUNDS = 4
_SLOWEST = 0.05
