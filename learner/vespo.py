"""VESPO: a smooth kernel over the whole importance weight of a unit instead of a clip.

    L_u = sg[ φ(w_u) ] A log π_θ        φ(w) = e^λ w^k e^(−λ w)        arXiv 2602.10693
    w_u = Π_{t∈u} π_θ(y_t) / π_prox(y_t)        (k, λ) = (2, 3) if A > 0, else (3, 2)

φ(1) = 1 and φ ≤ e^(λ−k) (k/λ)^k < 1.25, so the product, unlike in plain importance sampling, cannot
blow up: φ is computed from log w, clamped to ± 20. It does vanish: the log-ratios of a long row
need only add up to a few units and the row has no gradient left. That is the method; on long
multi-turn rows `ratio_unit: subsequence` takes the product over one turn instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.ratios import LOG_RATIO_BOUND
from learner.segments import Segments

POSITIVE = (2.0, 3.0)
"""(k, λ) where A > 0."""
NEGATIVE = (3.0, 2.0)
"""(k, λ) where A < 0."""


def vespo(logp: Tensor, base_logp: Tensor, advantage: Tensor, units: Segments) -> Tensor:
    """Value of each token, [T], differentiable in `logp` [T]; `base_logp` and A are [T] too."""
    total = units.sum(logp.detach() - base_logp.detach())
    log_weight = units.spread(total.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    power, rate = (
        torch.where(advantage > 0, above, below).to(log_weight)
        for above, below in zip(POSITIVE, NEGATIVE, strict=True)
    )
    kernel = torch.exp(rate + power * log_weight - rate * log_weight.exp())
    return kernel * advantage * logp
