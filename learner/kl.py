"""Per-token estimators of KL(π ‖ π_base) from tokens sampled by π (Schulman 2020).

With d = log π_base − log π on a sampled token:

    k1 = −d                 unbiased, may be negative; as a loss its expected gradient is 0
    k2 = d² / 2             biased, low variance; as a loss its gradient is unbiased on policy
    k3 = exp(d) − d − 1     unbiased, non-negative, low variance
"""

from __future__ import annotations

import torch
from torch import Tensor

from wfr.objective_config import KlEstimator

EXPONENT_BOUND = 20.0
"""d is clamped to ± this before exp."""
VALUE_BOUND = 10.0
"""k3 is clamped to ± this; beyond it a token has no gradient."""


def kl(logp: Tensor, base_logp: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate KL(π ‖ π_base) on each token: [T], [T] → [T]; differentiable in `logp`."""
    difference = base_logp.detach() - logp
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    bounded = difference.clamp(-EXPONENT_BOUND, EXPONENT_BOUND)
    return (torch.expm1(bounded) - bounded).clamp(-VALUE_BOUND, VALUE_BOUND)
