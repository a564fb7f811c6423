"""CISPO: the ratio as a clipped, constant weight of the policy gradient.

    L_u = sg[ clip(ρ_u, 1 − ε_low, 1 + ε_high) ] A log π_θ            arXiv 2506.13585

Unlike PPO's minimum, no token loses its gradient. The paper leaves the lower side open (ε_low = 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.clipping import Clipped


def cispo(
    logp: Tensor, ratio: Tensor, advantage: Tensor, epsilon: tuple[Tensor, Tensor]
) -> tuple[Tensor, Clipped]:
    """Value of each token, [T], differentiable in `logp` [T]; bounds hold whatever the sign of A.

    Args:
        logp: log π_θ.
        ratio: ρ of each token's unit, [T].
        advantage: A of each token, [T].
        epsilon: (ε_low, ε_high), each [T].
    """
    weight = ratio.detach()
    floor, ceiling = 1 - epsilon[0], 1 + epsilon[1]
    low, high = weight < floor, weight > ceiling
    weight = torch.where(low, floor, torch.where(high, ceiling, weight))
    return weight * advantage * logp, Clipped(weight, low, high, torch.zeros_like(low))
