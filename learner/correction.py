"""Weight of a unit whose behaviour policy μ is not the proximal policy (design 8).

    w_u = exp( mean_{t∈u} [ log π_prox(y_t) − log μ(y_t) ] )

    none       1
    truncate   min(w, C)                        truncated importance sampling
    mask       w where low ≤ w ≤ high, else 0   IcePop
    decoupled  w                                decoupled PPO, arXiv 2505.24298

The weight is a constant of the objective: no gradient flows through it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from learner.columns import Columns
from learner.ratios import ratio
from learner.segments import Segments
from wfr.objective_config import ObjectiveConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Corrected:
    """Correction for stale behaviour policies.

    Attributes:
        units: partition on which w lives.
        weight: [T], w of each token's unit.
        factor: [T], C(w).
    """

    units: Segments
    weight: Tensor
    factor: Tensor


def correction(columns: Columns, config: ObjectiveConfig) -> Corrected:
    """Compute w and C(w) at `correction_unit`, or at the ratio's unit where that is none."""
    units = columns.layout.segments(config.correction_unit or config.ratio_unit, columns.keep)
    weight = ratio(columns.proximal, columns.behaviour, units)
    return Corrected(units, weight, factor(weight, config))


def factor(weight: Tensor, config: ObjectiveConfig) -> Tensor:
    """Turn raw weights w [T] into the factors C(w) [T]."""
    if config.correction == "none":
        return torch.ones_like(weight)
    if config.correction == "truncate":
        return weight.clamp(max=config.correction_cap)
    if config.correction == "mask":
        inside = (weight >= config.correction_low) & (weight <= config.correction_high)
        return torch.where(inside, weight, 0)
    return weight
