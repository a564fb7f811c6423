"""Aggregation: the share of each policy token in the loss.

Every aggregate of design 8 is a weighted sum over tokens, J = Σ_t a_t L_{u(t)}, with a_t equal to

    token_mean         1 / N                        N policy tokens in the whole optimizer step
    sequence_mean      1 / (R · |y|)                R rows in the whole step, |y| tokens of this row
    subsequence_mean   1 / (R · |S| · |s|)          |S| turns of this row, |s| tokens of this turn
    constant           1 / (R · L)

so that the aggregate and the ratio's unit are independent choices. A row is never split over
micro-batches, hence N and R are the only numbers that must be known globally.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from learner.segments import Layout
from wfr.objective_config import ObjectiveConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Denominators:
    """Counts over all ranks and micro-batches of one optimizer step; masked tokens included.

    Attributes:
        policy_tokens: tokens that the policy wrote.
        rows: trajectories with at least one such token.
    """

    policy_tokens: int
    rows: int

    def __add__(self, other: Denominators) -> Denominators:
        """Count two disjoint sets of rows together."""
        return Denominators(self.policy_tokens + other.policy_tokens, self.rows + other.rows)

    @classmethod
    def of(cls, layout: Layout) -> Denominators:
        """Count one packed batch."""
        sizes = layout.segments("sequence").sizes
        return cls(int(sizes.sum()), int((sizes > 0).sum()))


def shares(
    layout: Layout, config: ObjectiveConfig, denominators: Denominators, dtype: torch.dtype
) -> Tensor:
    """Share a_t of each token: [T], 0 outside policy tokens; sums to 1 but for `constant`."""
    size = torch.ones(len(layout.row), dtype=dtype, device=layout.row.device)
    total = max(denominators.rows, 1)
    if config.aggregate == "token_mean":
        total = max(denominators.policy_tokens, 1)
    elif config.aggregate == "sequence_mean":
        size = layout.segments("sequence").size(dtype)
    elif config.aggregate == "subsequence_mean":
        turns = layout.turns_per_row().index_select(0, layout.row).clamp(min=1).to(dtype)
        size = turns * layout.segments("subsequence").size(dtype)
    else:
        size = size * config.constant
    return (1 / (total * size)).where(layout.policy, 0)
