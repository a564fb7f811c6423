"""Staleness at the level of a sub-sequence: which turns are too old, and how much one counts.

The lag of a turn is the largest lag among its tokens, in optimizer steps. A turn older than
`max_turn_lag` is masked (design 7); a younger one is weighted by γ^lag.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.segments import Layout
from wfr.objective_config import ObjectiveConfig


def of_turns(turn_lag: Tensor, layout: Layout) -> Tensor:
    """Lag of the turn that each token belongs to: int64 [T], int64 [T]; 0 outside turns."""
    turns = layout.segments("subsequence")
    return turns.spread(turns.maximum(turn_lag)).where(layout.policy, 0)


def fresh(lag: Tensor, config: ObjectiveConfig) -> Tensor:
    """Tokens whose turn is young enough to be trained on: bool [T]."""
    if config.max_turn_lag is None:
        return torch.ones_like(lag, dtype=torch.bool)
    return lag <= config.max_turn_lag


def decay(lag: Tensor, config: ObjectiveConfig, dtype: torch.dtype) -> Tensor:
    """Weight γ^lag of each token: [T]."""
    return torch.pow(torch.tensor(config.lag_decay, dtype=dtype, device=lag.device), lag)
