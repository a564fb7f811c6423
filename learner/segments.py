"""Segments: sums, means and maxima over tokens, sub-sequences or sequences of a packed batch.

A packed batch is flat: T tokens of many rows (trajectories) and turns (sub-sequences) in any order.
Everything here is one scatter-add or one gather; nothing loops over turns or rows.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wfr.objective_config import RatioUnit


@dataclasses.dataclass(frozen=True, slots=True)
class Segments:
    """A partition of the member tokens.

    Attributes:
        index: int64 [T], segment of each token; 0 for tokens that are no member.
        member: bool [T], tokens that belong to a segment; all others are outside sums and counts.
        sizes: int64 [S], members per segment; 0 where a segment has none.
    """

    index: Tensor
    member: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, index: Tensor, member: Tensor, count: int) -> Segments:
        """Partition `member` tokens by `index` [T], whose values lie in [0, count)."""
        index = torch.where(member, index, 0)
        sizes = torch.zeros(count, dtype=torch.int64, device=index.device)
        return cls(index, member, sizes.index_add(0, index, member.long()))

    def spread(self, values: Tensor) -> Tensor:
        """Give each token the value of its segment: [S] → [T]."""
        return values.index_select(0, self.index)

    def size(self, dtype: torch.dtype) -> Tensor:
        """Members of each token's segment, at least 1: [T]."""
        return self.spread(self.sizes).clamp(min=1).to(dtype)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` [T] over the members of each segment: [S]."""
        values = torch.where(self.member, values, 0)
        return values.new_zeros(len(self.sizes)).index_add(0, self.index, values)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` [T] over the members of each segment: [S], 0 where there are none."""
        return self.sum(values) / self.sizes.clamp(min=1).to(values.dtype)

    def maximum(self, values: Tensor) -> Tensor:
        """Largest of the non-negative `values` [T] over each segment's members: [S], else 0."""
        values = torch.where(self.member, values, 0)
        zeros = values.new_zeros(len(self.sizes))
        return zeros.scatter_reduce(0, self.index, values, reduce="amax")


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
