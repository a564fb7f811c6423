"""A-3PO: the proximal policy by interpolation, without a forward pass of its own.

    log π_prox ≈ log μ + α (log π_θ − log μ)                          arXiv 2512.06547
    α = clamp( (v_prox − v) / (V − v), 0, 1 ),  v_prox = V − 1

for a token sampled under version v and trained on at version V, so with lag d = V − v it is
α = (d − 1) / d, and 0 (the proximal policy is μ) at d = 0 and d = 1.
"""

from __future__ import annotations

from torch import Tensor


def interpolate(logp: Tensor, behaviour_logp: Tensor, turn_lag: Tensor) -> Tensor:
    """Approximate log π_prox: [T], a constant.

    Args:
        logp: log π_θ, [T].
        behaviour_logp: log μ, [T].
        turn_lag: d, int64 [T], optimizer steps.
    """
    lag = turn_lag.clamp(min=1).to(logp.dtype)
    return behaviour_logp + (lag - 1) / lag * (logp.detach() - behaviour_logp)
