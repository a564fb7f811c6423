"""Rejection: units whose behaviour policy μ is too far from the proximal policy do not count.

    mean   w_u = exp(mean_{t∈u} log π_prox − log μ) outside [low, high]      geometric mask
    any    w_t of any single token t ∈ u outside [low, high]

A rejected unit leaves every sum (ratios, KL and entropy too), but stays in the denominators, so the
step shrinks and is not re-weighted. IcePop's band (`learner.correction`) differs: it takes the
gain of its units away and leaves their KL penalty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.ratios import ratio
from learner.segments import Layout
from wfr.objective_config import ObjectiveConfig


def rejected(
    proximal: Tensor, behaviour: Tensor, layout: Layout, keep: Tensor, config: ObjectiveConfig
) -> Tensor:
    """Tokens of units that are left out: bool [T].

    Args:
        proximal: log π_prox, [T]; finite where `keep`.
        behaviour: log μ, [T]; finite where `keep`.
        layout: row and turn of each token.
        keep: bool [T], tokens that count so far.
        config: which statistic, unit and band.
    """
    if config.rejection == "none":
        return torch.zeros_like(keep)
    units = layout.segments(config.rejection_unit or config.ratio_unit, keep)
    measured = layout.segments("token", keep) if config.rejection == "any" else units
    weight = ratio(proximal, behaviour, measured)
    outside = (weight < config.rejection_low) | (weight > config.rejection_high)
    return units.spread(units.maximum((outside & keep).long())).bool() & keep
