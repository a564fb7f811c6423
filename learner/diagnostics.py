"""What to log about an objective, in a form that adds up over micro-batches and ranks.

Every mean is Σ value · weight / Σ weight over tokens, whose weights make each token, each unit,
each turn or each row count once. The same means are taken again over the tokens of one bucket: of
the lag of their turn (`ratio/lag_2`) and of its length in tokens (`ratio/length_9_32`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

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


@dataclasses.dataclass(frozen=True, slots=True)
class _Mean:
    """A mean to be taken: name, values [T] and weights [T]."""

    name: str
    values: Tensor
    weights: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Buckets:
    """A second partition of the tokens: name of the key, bucket of each token [T], and labels."""

    name: str
    index: Tensor
    labels: tuple[str, ...]

    @classmethod
    def of(cls, name: str, keys: Tensor, bounds: tuple[int, ...]) -> Buckets:
        """Sort the integers `keys` [T]; bucket i ends with bounds[i]."""
        edges = torch.tensor(bounds, device=keys.device)
        return cls(name, torch.bucketize(keys, edges), tuple(_labels(bounds)))

    def names(self, names: Sequence[str]) -> Iterator[str]:
        """Each name in each bucket, in the order of `sums` and `extremes` below."""
        return (f"{name}/{self.name}_{label}" for name in names for label in self.labels)

    def sums(self, values: Tensor) -> Tensor:
        """Sums per bucket: [K, T] → [K · buckets]."""
        zeros = values.new_zeros(len(values), len(self.labels))
        return zeros.index_add(1, self.index, values).flatten()

    def maxima(self, values: Tensor) -> Tensor:
        """Maxima per bucket, −∞ over nothing: [K, T] → [K · buckets]."""
        nothing = values.new_full((len(values), len(self.labels)), float("-inf"))
        return nothing.scatter_reduce(
            1, self.index.expand_as(values), values, reduce="amax"
        ).flatten()


@torch.no_grad()
def diagnose(terms: Terms, denominators: Denominators) -> MetricSums:
    """Summarise one micro-batch; `denominators` are those of the whole optimizer step."""
    means = [*_unit_means(terms), *_token_means(terms.columns), *_turn_means(terms.columns)]
    tops = torch.stack([mean.values.double() * mean.weights for mean in means])
    bottoms = torch.stack([mean.weights for mean in means])
    names = [mean.name for mean in means]
    ends, end_names = _extremes(terms)

    sums = [torch.stack([tops.sum(1), bottoms.sum(1)], dim=1), *_row_sums(terms, denominators)]
    all_names, extremes, all_ends = [*names, *ROW_MEANS], [ends.amax(1)], [*end_names]
    for buckets in _partitions(terms.columns):
        sums.append(torch.stack([buckets.sums(tops), buckets.sums(bottoms)], dim=1))
        all_names += buckets.names(names)
        extremes.append(buckets.maxima(ends))
        all_ends += buckets.names(end_names)
    return MetricSums(torch.cat(sums), torch.cat(extremes), tuple(all_names), tuple(all_ends))


def _partitions(columns: Columns) -> Iterator[Buckets]:
    if columns.lag is not None:
        yield Buckets.of("lag", columns.lag, LAG_BOUNDS)
    lengths = columns.layout.segments("subsequence").size(torch.int64)
    yield Buckets.of("length", lengths, LENGTH_BOUNDS)


def _weigh(units: Segments) -> Tensor:
    """Weights [T] under which every unit counts once."""
    return (1 / units.size(torch.float64)).where(units.member, 0)


def _unit_means(terms: Terms) -> Iterator[_Mean]:
    """Over units; the square of a weight gives its effective sample size."""
    weights = _weigh(terms.units)
    yield _Mean("ratio", terms.ratio, weights)
    yield _Mean("ratio_square", terms.ratio.square(), weights)
    for side in ("low", "high", "dual"):
        yield _Mean(f"clip_fraction_{side}", getattr(terms.clipped, side), weights)
    corrected = terms.corrected
    weights = _weigh(corrected.units)
    yield _Mean("correction", corrected.weight, weights)
    yield _Mean("correction_square", corrected.weight.square(), weights)
    yield _Mean("correction_fraction", corrected.factor != corrected.weight, weights)


def _token_means(columns: Columns) -> Iterator[_Mean]:
    keep, policy, logp = columns.keep.double(), columns.layout.policy.double(), columns.logp
    yield _Mean("masked_fraction", ~columns.keep, policy)
    yield _Mean("rejected_fraction", columns.rejected, policy)
    yield _Mean("kl_proximal", kl(logp, columns.proximal, "k3"), keep)
    yield _Mean("kl_behaviour", kl(logp, columns.behaviour, "k3"), keep)
    if columns.reference is not None:
        yield _Mean("kl_reference", kl(logp, columns.reference, "k3"), keep)
    if columns.entropy is not None:
        yield _Mean("entropy", columns.entropy, keep)


def _turn_means(columns: Columns) -> Iterator[_Mean]:
    """Sizes over all turns; advantages over the rows, or their parts in a bucket, that count."""
    turns = columns.layout.segments("subsequence")
    weights = _weigh(turns)
    per_row = columns.layout.turns_per_row().index_select(0, columns.layout.row)
    yield _Mean("tokens_per_turn", turns.size(torch.float64), weights)
    yield _Mean("turns_of_row", per_row, weights)
    weights = _weigh(columns.layout.segments("sequence", columns.keep))
    yield _Mean("advantage", columns.advantage, weights)
    yield _Mean("advantage_abs", columns.advantage.abs(), weights)
    yield _Mean("advantage_zero_fraction", columns.advantage == 0, weights)


ROW_MEANS = ("turns_per_row", "tokens_per_row", "policy_loss", "penalty_loss")


def _row_sums(terms: Terms, denominators: Denominators) -> Iterator[Tensor]:
    """Sums of ROW_MEANS, [1, 2] each."""
    layout = terms.columns.layout
    sizes = layout.segments("sequence").sizes
    rows = (sizes > 0).sum()
    # Shares already hold the step's denominators: × rows here and ÷ rows later adds up to the sum.
    policy, penalty = -terms.gain.sum(), terms.penalty.sum()
    tops = (
        layout.turns_per_row().sum(),
        sizes.sum(),
        policy * denominators.rows,
        penalty * denominators.rows,
    )
    for top in tops:
        yield torch.stack([top.double(), rows.double()])[None]


def _extremes(terms: Terms) -> tuple[Tensor, tuple[str, ...]]:
    """Values whose maximum is wanted, [K, T], and their names; minima are negated."""
    wanted = {
        "ratio": terms.ratio,
        "correction": terms.corrected.weight,
        "advantage": terms.columns.advantage,
    }
    keep = terms.columns.keep
    rows = [
        torch.where(keep, sign * values.double(), float("-inf"))
        for values in wanted.values()
        for sign in (-1, 1)
    ]
    return torch.stack(rows), tuple(f"{name}_{end}" for name in wanted for end in ("min", "max"))


def _labels(bounds: tuple[int, ...]) -> Iterator[str]:
    """Bounds (0, 1, 4) → labels 0, 1, 2_4, 5_up."""
    yield str(bounds[0])
    for before, bound in itertools.pairwise(bounds):
        yield str(bound) if bound == before + 1 else f"{before + 1}_{bound}"
    yield f"{bounds[-1] + 1}_up"
