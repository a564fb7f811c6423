"""Metrics that can be added up: sums with their counts, and extremes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class MetricSums:
    """What one micro-batch contributes to the metrics of an optimizer step.

    Add micro-batches with `+`; over ranks, all-reduce `sums` with SUM and `extremes` with MAX.

    Attributes:
        sums: float64 [K, 2], numerator and denominator of each mean.
        extremes: float64 [M]; minima are stored negated, so that MAX reduces both kinds.
        names: the K means.
        extreme_names: the M extremes; a name ends in `_min` or `_max`.
    """

    sums: Tensor
    extremes: Tensor
    names: tuple[str, ...]
    extreme_names: tuple[str, ...]

    @classmethod
    def of(
        cls, means: Mapping[str, tuple[Tensor, Tensor]], extremes: Mapping[str, Tensor]
    ) -> MetricSums:
        """Stack scalars; values of `extremes` whose name ends in `_min` are minima."""
        sums = [part.detach().double() for pair in means.values() for part in pair]
        ends = [
            (-value if name.endswith("_min") else value).detach().double()
            for name, value in extremes.items()
        ]
        stacked = torch.stack(sums).view(-1, 2)
        return cls(stacked, torch.stack(ends), tuple(means), tuple(extremes))

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
        """Means and extremes by name; those over nothing are left out."""
        means = {
            name: top / bottom
            for name, (top, bottom) in zip(self.names, self.sums.tolist(), strict=True)
            if bottom
        }
        ends = {
            name: -value if name.endswith("_min") else value
            for name, value in zip(self.extreme_names, self.extremes.tolist(), strict=True)
            if value != float("-inf")
        }
        return means | ends
