"""DPPO with the binary total-variation mask: a trust region in probability, not in ratio.

    L_t = keep_t A ρ_t − c (log ρ_t)²                                 arXiv 2602.04879
    keep_t = 0 where A > 0 and p_t − q_t > δ, or A < 0 and p_t − q_t < −δ, else 1

with p = π_θ(y_t) and q = π_prox(y_t), which the preset makes the behaviour policy μ. A rare token
may multiply its probability by ten inside the region; a ratio clip would stop it at once. The
square is a regulariser beside the paper's mask, and acts on masked tokens too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.clipping import Clipped
from wfr.objective_config import ObjectiveConfig


def dppo(
    logp: Tensor, base_logp: Tensor, ratio: Tensor, advantage: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, Clipped]:
    """Value of each token, [T], differentiable in `logp`.

    Args:
        logp: log π_θ, [T].
        base_logp: log q, [T]; held constant.
        ratio: ρ of each token, [T].
        advantage: A of each token, [T].
        config: δ and c.
    """
    moved = (logp.exp() - base_logp.exp()).detach()
    low = (advantage < 0) & (moved < -config.dppo_delta)
    high = (advantage > 0) & (moved > config.dppo_delta)
    kept = torch.where(low | high, 0, ratio)
    value = kept * advantage - config.dppo_penalty * (logp - base_logp).square()
    return value, Clipped(kept, low, high, torch.zeros_like(low))
