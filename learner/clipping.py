"""Clipping of importance ratios: PPO's pessimistic minimum with its two bounds, and dual clip.

min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A)            PPO, arXiv 1707.06347 eq. 7
max(that, c A)  where A < 0                            dual clip, arXiv 1912.09729
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from learner.segments import Segments
from wfr.objective_config import ObjectiveConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Clipped:
    """Ratios after clipping, and where it bound.

    Attributes:
        ratio: [T], constant (no gradient) where a bound holds.
        low: bool [T], ratio < 1 − ε_low with a negative advantage (CISPO: with any).
        high: bool [T], ratio > 1 + ε_high with a positive advantage (CISPO: with any).
        dual: bool [T], ratio > c with a negative advantage.
    """

    ratio: Tensor
    low: Tensor
    high: Tensor
    dual: Tensor


def clip(
    ratio: Tensor, advantage: Tensor, epsilon: tuple[Tensor, Tensor], dual: float | None = None
) -> Clipped:
    """Clip `ratio` [T] where that makes ratio × `advantage` [T] smaller.

    Args:
        ratio: ρ of each token's unit.
        advantage: A of each token.
        epsilon: (ε_low, ε_high), each [T].
        dual: c of dual clip, or none.
    """
    floor, ceiling = 1 - epsilon[0], 1 + epsilon[1]
    low = (advantage < 0) & (ratio < floor)
    high = (advantage > 0) & (ratio > ceiling)
    bounded = torch.where(low, floor, torch.where(high, ceiling, ratio))
    if dual is None:
        return Clipped(bounded, low, high, torch.zeros_like(low))
    beyond = (advantage < 0) & (ratio > dual)
    return Clipped(bounded.where(~beyond, dual), low, high, beyond)


def epsilons(
    config: ObjectiveConfig, units: Segments, lag: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Clip range (ε_low, ε_high) of each token's unit, each [T].

    `per_length` multiplies ε by |u|^−1/2 (capped): with independent noise per token that is how the
    spread of a geometric mean over |u| tokens shrinks. `lag_clip` divides ε by 1 + κ·lag, with the
    largest lag (int64 [T], optimizer steps) inside the unit.
    """
    shrink = 1 + config.lag_clip * units.spread(units.maximum(lag)).to(dtype)
    low, high = (torch.full_like(shrink, bound) for bound in (config.clip_low, config.clip_high))
    if config.clip_scaling == "per_length":
        scale = units.size(dtype).rsqrt()
        low, high = ((bound * scale).clamp(max=config.clip_cap) for bound in (low, high))
    return low / shrink, high / shrink
