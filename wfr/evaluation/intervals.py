"""95 % intervals of mean scores, and paired comparisons of two runs on the same tasks.

The task is the unit that is drawn again: several samples of one task are not independent, so they
are averaged before anything here sees them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000
_EXACT_FLIPS = 16
_CHUNK = 1 << 22
_Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval over `count` tasks."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """For tables: mean, and the interval in brackets."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Mean difference B − A over the tasks that both have, and how surprising it is.

    `p_value`: share of random exchanges of A and B within tasks whose mean difference is at least
    as far from 0 (two-sided sign-flip test; exact for up to 16 tasks that differ).
    """

    difference: Interval
    p_value: float
    wins: int
    losses: int


def mean_interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean; Wilson's interval where all scores are 0 or all are 1.

    A bootstrap of equal values has no width, which would claim certainty after three tasks.

    Raises:
        ValueError: no score, or one that is no number.
    """
    values = _checked(scores)
    mean = float(values.mean())
    if mean in (0.0, 1.0) and np.all(values == mean):
        return Interval(mean, *_wilson(mean, len(values)), len(values))
    low, high = np.percentile(_resampled_means(values, seed), [2.5, 97.5])
    return Interval(mean, float(low), float(high), len(values))


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Paired comparison; both hold one score per task, in the same order.

    Raises:
        ValueError: different lengths, no score, or one that is no number.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores against {len(second)}: not the same tasks")
    gaps = _checked(second) - _checked(first)
    low, high = np.percentile(_resampled_means(gaps, seed), [2.5, 97.5])
    interval = Interval(float(gaps.mean()), float(low), float(high), len(gaps))
    return Comparison(
        interval, _sign_flip(gaps, seed), int((gaps > 0).sum()), int((gaps < 0).sum())
    )


def _checked(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"expected at least one score and only numbers, found {list(scores)[:5]}")
    return values


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of draws with replacement, [10,000], in pieces of bounded memory."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(_RESAMPLES, _CHUNK // len(values)))
    means = []
    for start in range(0, _RESAMPLES, rows):
        count = min(rows, _RESAMPLES - start)
        means.append(values[generator.integers(0, len(values), (count, len(values)))].mean(axis=1))
    return np.concatenate(means)


def _wilson(mean: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    spread = _Z95**2 / count
    centre = (mean + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(mean * (1 - mean) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _sign_flip(gaps: np.ndarray, seed: int) -> float:
    moved = gaps[gaps != 0]
    if moved.size == 0:
        return 1.0
    observed = abs(moved.sum()) - 1e-12
    if moved.size <= _EXACT_FLIPS:
        numbers = np.arange(1 << moved.size)[:, None] >> np.arange(moved.size)
        sums = np.where(numbers & 1, -1.0, 1.0) @ moved
        return float((np.abs(sums) >= observed).mean())
    generator = np.random.default_rng(seed)
    extreme = 0
    rows = max(1, min(_RESAMPLES, _CHUNK // moved.size))
    for start in range(0, _RESAMPLES, rows):
        count = min(rows, _RESAMPLES - start)
        signs = generator.integers(0, 2, (count, moved.size)) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= observed).sum())
    return (extreme + 1) / (_RESAMPLES + 1)
