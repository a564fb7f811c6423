"""Metrics that can be added up: sums with their counts, and extremes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

_SQUARE, _ESS = "_square", "_ess"


@dataclasses.dataclass(frozen=True, slots=True)
class MetricSums:
    """What one micro-batch contributes to the metrics of an optimizer step.

    Add micro-batches with `+`; over ranks, all-reduce `sums` with SUM and `extremes` with MAX.

    Attributes:
        sums: float64 [K, 2], numerator and denominator of each mean.
        extremes: float64 [M]; minima are stored negated, so that MAX reduces both kinds.
        names: the K means; the mean of squares of `x` is named `x_square`.
        extreme_names: the M extremes; a name holds `_min` or `_max`.
    """

    sums: Tensor
    extremes: Tensor
    names: tuple[str, ...]
    extreme_names: tuple[str, ...]

    def __add__(self, other: MetricSums) -> MetricSums:
        """Join two micro-batches of one step."""
        assert self.names == other.names, (self.names, other.names)
        assert self.extreme_names == other.extreme_names
        return dataclasses.replace(
            self,
            sums=self.sums + other.sums,
            extremes=torch.maximum(self.extremes, other.extremes),
        )

    def values(self) -> dict[str, float]:
        """Means and extremes by name; those over nothing are left out.

        For a weight `x` with a mean of squares, `x_ess` is its effective sample size (Σx)² / Σx²
        as a share of the samples: 1 where all weigh the same.
        """
        means = {
            name: top / bottom
            for name, (top, bottom) in zip(self.names, self.sums.tolist(), strict=True)
            if bottom
        }
        for name in [name for name in means if _SQUARE in name]:
            square = means.pop(name)
            mean = means[name.replace(_SQUARE, "")]
            means[name.replace(_SQUARE, _ESS)] = mean * mean / square if square else 0.0
        ends = {
            name: -value if "_min" in name else value
            for name, value in zip(self.extreme_names, self.extremes.tolist(), strict=True)
            if value != float("-inf")
        }
        return means | ends
