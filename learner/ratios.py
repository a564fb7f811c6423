"""Importance ratios: the geometric mean of token ratios over a unit.

    ρ_u = exp( mean_{t∈u} [ log π(y_t) − log π_base(y_t) ] )

Unit token: PPO and GRPO. Unit sub-sequence (one think-action turn): GSsPO, arXiv 2602.01202 eq. 7.
Unit sequence: GSPO, arXiv 2507.18071 eq. 7.
"""

from __future__ import annotations

from torch import Tensor

from learner.segments import Segments

LOG_RATIO_BOUND = 20.0
"""Mean log-ratios are clamped to ± this before exp, so that no single unit can overflow."""


def ratio(logp: Tensor, base_logp: Tensor, units: Segments) -> Tensor:
    """Give each token the ratio of its unit; differentiable in `logp`.

    Args:
        logp: [T] log-probabilities under the policy in the numerator.
        base_logp: [T] the same tokens under the policy in the denominator; held constant.
        units: partition of the tokens that count.

    Returns:
        [T]; 1 for tokens outside every unit.
    """
    difference = logp - base_logp.detach()
    means = units.mean(difference).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return units.spread(means.exp()).where(units.member, 1)
