"""What to log about an objective, in a form that adds up over micro-batches and ranks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from learner.aggregation import Denominators
from learner.clipping import Clipped
from learner.columns import Columns
from learner.correction import Corrected
from learner.kl import kl
from learner.metric_sums import MetricSums
from learner.segments import Segments

LAG_BOUNDS = (0, 1, 2, 3, 4, 8)
LENGTH_BOUNDS = (1, 8, 32, 128, 512)

Pair = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """Everything the objective computed on its way; all tensors are [T].

    Attributes:
        columns: the cleaned columns.
        units: partition on which the ratio lives.
        ratio: ρ before clipping.
        clipped: ρ after clipping and where it bound.
        corrected: w and C(w).
        gain: each token's share of the policy term of J.
        penalty: each token's share of β KL − η H.
    """

    columns: Columns
    units: Segments
    ratio: Tensor
    clipped: Clipped
    corrected: Corrected
    gain: Tensor
    penalty: Tensor


@torch.no_grad()
def diagnose(terms: Terms, denominators: Denominators) -> MetricSums:
    """Summarise one micro-batch.

    Ratios and clip fractions are means over units; KL and entropy over tokens; advantages and
    turns over rows. Each bucket of lag or length has its own mean.
    """
    means = dict(_unit_means(terms))
    means |= dict(_token_means(terms.columns))
    means |= dict(_row_means(terms, denominators))
    means |= dict(_length_means(terms))
    if terms.columns.lag is not None:
        means |= dict(_lag_means(terms, terms.columns.lag))
    keep = terms.columns.keep
    extremes = {
        "ratio": terms.ratio,
        "correction": terms.corrected.weight,
        "advantage": terms.columns.advantage,
    }
    bounds = {}
    for name, values in extremes.items():
        bounds[f"{name}_min"] = torch.where(keep, values, float("inf")).min()
        bounds[f"{name}_max"] = torch.where(keep, values, float("-inf")).max()
    return MetricSums.of(means, bounds)


def _weigh(units: Segments) -> Tensor:
    """Weights [T] under which every unit counts once."""
    return (1 / units.size(torch.float64)).where(units.member, 0)


def _mean(values: Tensor, weights: Tensor) -> Pair:
    return (values * weights).sum(), weights.sum()


def _unit_means(terms: Terms) -> Iterator[tuple[str, Pair]]:
    weights = _weigh(terms.units)
    yield "ratio", _mean(terms.ratio, weights)
    for side in ("low", "high", "dual"):
        yield f"clip_fraction_{side}", _mean(getattr(terms.clipped, side), weights)
    corrected = terms.corrected
    weights = _weigh(corrected.units)
    yield "correction", _mean(corrected.weight, weights)
    yield "correction_fraction", _mean(corrected.factor != corrected.weight, weights)


def _token_means(columns: Columns) -> Iterator[tuple[str, Pair]]:
    keep, logp = columns.keep.double(), columns.logp
    yield "masked_fraction", _mean(~columns.keep, columns.layout.policy.double())
    yield "kl_proximal", _mean(kl(logp, columns.proximal, "k3"), keep)
    yield "kl_behaviour", _mean(kl(logp, columns.behaviour, "k3"), keep)
    if columns.reference is not None:
        yield "kl_reference", _mean(kl(logp, columns.reference, "k3"), keep)
    if columns.entropy is not None:
        yield "entropy", _mean(columns.entropy, keep)


def _row_means(terms: Terms, denominators: Denominators) -> Iterator[tuple[str, Pair]]:
    columns = terms.columns
    per_row = _weigh(columns.layout.segments("sequence", columns.keep))
    sizes = columns.layout.segments("sequence").sizes
    rows, turns = (sizes > 0).sum(), columns.layout.turns_per_row().sum()
    yield "turns_per_row", (turns, rows)
    yield "tokens_per_turn", (sizes.sum(), turns)
    yield "tokens_per_row", (sizes.sum(), rows)
    yield "advantage", _mean(columns.advantage, per_row)
    yield "advantage_abs", _mean(columns.advantage.abs(), per_row)
    # Shares already hold the step's denominators: × rows here and ÷ rows later adds up to the sum.
    yield "policy_loss", (-terms.gain.sum() * denominators.rows, rows)
    yield "penalty_loss", (terms.penalty.sum() * denominators.rows, rows)


def _length_means(terms: Terms) -> Iterator[tuple[str, Pair]]:
    clipped = terms.clipped.low | terms.clipped.high
    sizes = terms.units.size(torch.int64)
    yield from _bucketed("clip_fraction/length", LENGTH_BOUNDS, sizes, clipped, _weigh(terms.units))


def _lag_means(terms: Terms, lag: Tensor) -> Iterator[tuple[str, Pair]]:
    weights = _weigh(terms.units)
    clipped = terms.clipped.low | terms.clipped.high
    yield from _bucketed("clip_fraction/lag", LAG_BOUNDS, lag, clipped, weights)
    yield from _bucketed("ratio/lag", LAG_BOUNDS, lag, terms.ratio, weights)
    weights = _weigh(terms.corrected.units)
    yield from _bucketed("correction/lag", LAG_BOUNDS, lag, terms.corrected.weight, weights)


def _bucketed(
    name: str, bounds: tuple[int, ...], keys: Tensor, values: Tensor, weights: Tensor
) -> Iterator[tuple[str, Pair]]:
    """Mean of `values` per bucket of the integer `keys`; bucket i ends with bounds[i]."""
    edges = torch.tensor(bounds, device=keys.device)
    bucket = torch.bucketize(keys, edges)
    zeros = torch.zeros(len(bounds) + 1, dtype=torch.float64, device=keys.device)
    tops = zeros.index_add(0, bucket, values.double() * weights)
    bottoms = zeros.index_add(0, bucket, weights)
    for label, top, bottom in zip(_labels(bounds), tops, bottoms, strict=True):
        yield f"{name}_{label}", (top, bottom)


def _labels(bounds: tuple[int, ...]) -> Iterator[str]:
    """Bounds (0, 1, 4) → labels 0, 1, 2_4, 5_up."""
    yield str(bounds[0])
    for before, bound in itertools.pairwise(bounds):
        yield str(bound) if bound == before + 1 else f"{before + 1}_{bound}"
    yield f"{bounds[-1] + 1}_up"
