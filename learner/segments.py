"""Segments: sums, means and maxima over tokens, sub-sequences or sequences of a packed batch.

A packed batch is flat: T tokens of many rows (trajectories) and turns (sub-sequences) in any order.
Nothing here loops over turns or rows. A sum adds up *runs*, which are tokens of one segment that
stand side by side, and scatters only the few sums of runs: a scatter of every token takes five
times as long, and on a GPU its order is not fixed. Tokens that are no member have a segment of
their own, past the last, which is cut off again: cheaper than to mask them before each sum. Sum and
spread are each other's adjoint, so each is the other's gradient.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from wfr.objective_config import RatioUnit


@dataclasses.dataclass(frozen=True, slots=True)
class Segments:
    """A partition of the member tokens.

    Attributes:
        index: int64 [T], segment of each token; S for tokens that are no member.
        member: bool [T], tokens that belong to a segment; all others are outside sums and counts.
        sizes: int64 [S], members per segment; 0 where a segment has none.
        runs: int64 [R], tokens of each run of equal indices, in order.
        run_index: int64 [R], segment of each run.
    """

    index: Tensor
    member: Tensor
    sizes: Tensor
    runs: Tensor
    run_index: Tensor

    @classmethod
    def of(cls, index: Tensor, member: Tensor, count: int) -> Segments:
        """Partition `member` tokens by `index` [T], whose values lie in [0, count)."""
        index = torch.where(member, index, count)
        run_index, runs = torch.unique_consecutive(index, return_counts=True)
        sizes = torch.zeros(count + 1, dtype=torch.int64, device=index.device)
        return cls(index, member, sizes.index_add(0, run_index, runs)[:count], runs, run_index)

    def spread(self, values: Tensor) -> Tensor:
        """Give each token the value of its segment, 0 where it is no member: [S] → [T]."""
        spread: Tensor = _Spread.apply(values, self)  # type: ignore[no-untyped-call]
        return spread

    def size(self, dtype: torch.dtype) -> Tensor:
        """Members of each token's segment, at least 1: [T]."""
        return self.spread(self.sizes).clamp(min=1).to(dtype)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` [T] over the members of each segment: [S]."""
        total: Tensor = _Total.apply(values, self)  # type: ignore[no-untyped-call]
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` [T] over the members of each segment: [S], 0 where there are none."""
        return self.sum(values) / self.sizes.clamp(min=1).to(values.dtype)

    def maximum(self, values: Tensor) -> Tensor:
        """Largest of the non-negative `values` [T] over each segment's members: [S], else 0."""
        zeros = values.new_zeros(len(self.sizes) + 1)
        return zeros.scatter_reduce(0, self.index, values, reduce="amax")[:-1]


def _total(values: Tensor, segments: Segments) -> Tensor:
    zeros = values.new_zeros(len(segments.sizes) + 1)
    if 4 * len(segments.runs) > len(values):  # runs of a token or two: there is nothing to add up
        return zeros.index_add(0, segments.index, values)[:-1]
    sums = torch.segment_reduce(values, "sum", lengths=segments.runs, unsafe=True)
    return zeros.index_add(0, segments.run_index, sums)[:-1]


class _Total(torch.autograd.Function):
    """[T] → [S]; its gradient is the spread."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return _total(values, segments)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.segments.spread(gradient), None


class _Spread(torch.autograd.Function):
    """[S] → [T]; its gradient is the total."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments
        return torch.cat([values, values.new_zeros(1)]).index_select(0, segments.index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(gradient, ctx.segments), None  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Which row and turn each token of a packed batch belongs to.

    Attributes:
        policy: bool [T], tokens that the policy wrote; all others count nowhere.
        row: int64 [T], trajectory of each token, in [0, rows).
        turn: int64 [T], turn of each token inside its row, in [0, turns).
        rows: rows that may occur.
        turns: turns that may occur in a row.
    """

    policy: Tensor
    row: Tensor
    turn: Tensor
    rows: int
    turns: int

    @classmethod
    def of(cls, turn_id: Tensor, row_id: Tensor) -> Layout:
        """Read `turn_id` (−1: not a policy token) and `row_id`, both int64 [T].

        Raises:
            ValueError: a policy token has a negative row.
        """
        policy = turn_id >= 0
        turn, row = torch.where(policy, turn_id, 0), torch.where(policy, row_id, 0)
        if row.min() < 0:
            raise ValueError(f"row_id={int(row.min())} on a policy token; rows count from 0")
        return cls(policy, row, turn, int(row.max()) + 1, int(turn.max()) + 1)

    def segments(self, unit: RatioUnit, member: Tensor | None = None) -> Segments:
        """Partition the policy tokens, or only those in `member` bool [T], by `unit`."""
        member = self.policy if member is None else self.policy & member
        if unit == "token":
            total = len(self.row)
            return Segments.of(torch.arange(total, device=self.row.device), member, total)
        if unit == "subsequence":
            return Segments.of(self.row * self.turns + self.turn, member, self.rows * self.turns)
        return Segments.of(self.row, member, self.rows)

    def turns_per_row(self) -> Tensor:
        """Turns with at least one token in each row: int64 [rows]."""
        sizes = self.segments("subsequence").sizes
        return (sizes > 0).view(self.rows, self.turns).sum(1)
