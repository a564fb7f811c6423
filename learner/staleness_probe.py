"""A probe of a sample of each batch: how stale is it, and how far apart are the two engines?

The weight of a stale behaviour policy has two causes (`learner.staleness_factors`), which only
log-probabilities under the very weights that sampled a token can tell apart. The probe computes
them from snapshots, before the step's first update, for a few trajectories every few steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from learner.metric_sums import MetricSums
from learner.packing import PackedBatch, Row
from learner.snapshots import MIB, Snapshots
from learner.staleness_factors import staleness_factors
from wfr.learner_config import SnapshotsConfig
from wfr.objective_config import RatioUnit


class WeightHolder(Protocol):
    """What the probe needs of the engine."""

    def shards(self) -> Sequence[Tensor]:
        """This rank's own part of the trainable weights; not copies."""

    def load(self, shards: Sequence[Tensor]) -> None:
        """Put other values in the place of `shards()`."""

    def reduce(self, metrics: MetricSums) -> MetricSums:
        """Add up metrics over ranks."""


class StalenessProbe:
    """Keeps snapshots of the weights and measures with them; every rank holds one."""

    def __init__(
        self,
        config: SnapshotsConfig,
        unit: RatioUnit,
        engine: WeightHolder,
        deal: Callable[[Sequence[Row]], list[PackedBatch]],
        score: Callable[[Sequence[PackedBatch]], list[Tensor]],
    ) -> None:
        """Measure at `unit`; `deal` gives this rank's micro-batches of rows, `score` log π_θ."""
        self._config = config
        self._unit = unit
        self._engine = engine
        self._deal, self._score = deal, score
        self._snapshots = Snapshots(config.mib * MIB)

    def measure(self, version: int, rows: Sequence[Row], seed: int) -> dict[str, float]:
        """Remember the weights, which are those of `version`, and measure where it is due.

        All ranks call it with the same arguments. The weights are afterwards what they were.

        Raises:
            ValueError: the limit on memory is less than one copy.
        """
        self._snapshots.keep(version, self._engine.shards())
        if version % self._config.every:
            return {}
        chosen = self._sample(rows, random.Random(f"{seed}/{version}"))
        if not chosen:
            return {}
        sums = self._factors(version, chosen)
        return {**self._engine.reduce(sums).values(), "w_trajectories": float(len(chosen))}

    def _sample(self, rows: Sequence[Row], rng: random.Random) -> list[Row]:
        """Trajectories that were sampled under versions at hand alone."""
        known = [row for row in rows if _versions([row]) <= self._snapshots.versions]
        return rng.sample(known, min(len(known), self._config.trajectories))

    def _factors(self, version: int, rows: Sequence[Row]) -> MetricSums:
        batches = self._deal(rows)
        proximal = self._score(batches)
        versioned = [logp.clone() for logp in proximal]
        for older in sorted(_versions(rows) - {version}):
            self._engine.load(self._snapshots.of(older))
            for batch, into, logp in zip(batches, versioned, self._score(batches), strict=True):
                into.copy_(torch.where(batch.version == older, logp, into))
        self._engine.load(self._snapshots.of(version))
        parts = [
            staleness_factors(now, then, batch, self._unit)
            for now, then, batch in zip(proximal, versioned, batches, strict=True)
        ]
        return sum(parts[1:], parts[0])


def _versions(rows: Sequence[Row]) -> set[int]:
    return {int(v) for row in rows for v in set(row.version[row.turn_id >= 0].tolist())}
