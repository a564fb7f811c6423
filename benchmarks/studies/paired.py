"""Statistics of paired runs: intervals and tests of differences by seed, and many tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def bootstrap(
    values: Sequence[float], level: float = 0.95, draws: int = 10_000
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over seeds; none for fewer than two values."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values, np.float64), (draws, len(values)))
    low, high = np.quantile(drawn.mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test that the mean difference is 0; none for one value."""
    count = len(differences)
    if count < 2:
        return None
    values = np.asarray(differences, np.float64)
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(count)
    if error <= 1e-12 * max(1.0, abs(mean)):  # all equal: the test knows no noise
        return 1.0 if mean == 0 else 0.0
    return tails(float(mean / error), count - 1)


def tails(t: float, freedom: int) -> float:
    """P(|T| ≥ |t|) of Student's t: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + inside) if odd else inside)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm's step-down: below α means rejected with all errors below α."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
