"""M2PO: a trust region in the second moment of the log-ratios instead of a clip.

    J = Σ_t a_t M_t ρ_t A_t            ρ_t = π_θ(y_t) / μ(y_t)         arXiv 2510.01161
    M_t ∈ {0, 1} drops the tokens with the largest (log ρ_t)² until the mean of (log ρ_t)² over
    those that remain is at most τ (0.04)

The mean runs over all policy tokens of the optimizer step, so the cut is a number of the step and
is passed in like the denominators. It depends on θ: a learner scores the step's tokens once before
it trains on them. Dropped tokens stay in the denominators of the shares a_t.

The authors' released code differs: it looks only at tokens that move further away (A > 0 and ρ > 1,
or A < 0 and ρ < 1), turns the cut into clip bounds exp(± √cut), and cuts per micro-batch. AReaL's
`m2_threshold` masks as above.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.clipping import Clipped


def second_moment_cut(squares: Tensor, budget: float) -> float:
    """Smallest (log ρ)² that has to go so that the mean of those below is at most `budget`.

    Args:
        squares: [N] (log ρ)² of all policy tokens of the optimizer step, in any order.
        budget: τ.

    Returns:
        The cut, infinite where nothing has to go; equal values go together.
    """
    ascending = squares.double().sort().values
    counts = torch.arange(1, len(ascending) + 1, dtype=torch.float64, device=squares.device)
    excess = ascending.cumsum(0) / counts > budget  # the running mean never falls
    over = torch.nonzero(excess)
    return float(ascending[over[0, 0]]) if len(over) else float("inf")


def m2po(ratio: Tensor, log_ratio: Tensor, advantage: Tensor, cut: float) -> tuple[Tensor, Clipped]:
    """Value of each token, [T], differentiable in `ratio`; all tensors are [T].

    Args:
        ratio: ρ.
        log_ratio: log ρ.
        advantage: A.
        cut: tokens with (log ρ)² at or above it are dropped, see `second_moment_cut`.
    """
    moved = log_ratio.detach()
    dropped = moved.double().square() >= cut
    kept = torch.where(dropped, 0, ratio)
    low, high = dropped & (moved < 0), dropped & (moved > 0)
    return kept * advantage, Clipped(kept, low, high, torch.zeros_like(low))
