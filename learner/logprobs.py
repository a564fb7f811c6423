"""Log-probabilities and entropies of given tokens, from hidden states, in chunks of tokens.

    z = W h / τ        log p(y) = z_y − lse(z)        H = lse(z) − Σ_v p_v z_v

The logits of all tokens at once would be [N, V]; here no more than `chunk` rows of them exist, in
the forward and in the backward pass, which computes them anew:

    ∂ log p(y) / ∂z_v = 1[v = y] − p_v        ∂H / ∂z_v = −p_v (z_v − lse(z) + H)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Logits that exist at once: on CPU what stays in a core's cache, on GPU 512 MiB of float32."""
MIN_CHUNK = 64
"""Fewest tokens per chunk: below, matrix products are inefficient whatever the vocabulary."""


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it was drawn from.

    Args:
        hidden: [N, D] hidden state before each target; any float type; differentiable.
        weight: [V, D] of the language-model head, tied or not; differentiable.
        targets: int64 [N].
        temperature: τ of the sampler; logits are divided by it.
        chunk: tokens whose logits exist at once; none: chosen for the device and vocabulary.

    Returns:
        (log-probabilities [N], entropies [N]) in float32, or float64 if `hidden` is float64;
        products are accumulated in that type too.
    """
    if chunk is None:
        chunk = max(MIN_CHUNK, CHUNK_ELEMENTS[hidden.device.type] // len(weight))
    logp, entropy = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, chunk
    )
    return logp, entropy


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        real = _real(hidden)
        head = _operand(weight, real)
        logp, entropy, total = torch.empty(3, len(hidden), dtype=real, device=hidden.device)
        for part in _chunks(len(hidden), chunk):
            logits = _product(hidden[part], head.T, real).div_(temperature)
            total[part] = logits.logsumexp(1)
            logits -= total[part, None]
            logp[part] = logits.gather(1, targets[part, None])[:, 0]
            entropy[part] = -torch.linalg.vecdot(logits.exp(), logits)
        ctx.save_for_backward(hidden, weight, targets, total, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, total, entropy = ctx.saved_tensors
        real = _real(hidden)
        head = _operand(weight, real)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(weight, dtype=real) if ctx.needs_input_grad[1] else None
        for part in _chunks(len(hidden), ctx.chunk):
            logprobs = _product(hidden[part], head.T, real).div_(ctx.temperature)
            logprobs -= total[part, None]
            slopes = [None if grad is None else grad[part, None] for grad in grads]
            slope = _logit_slope(logprobs, targets[part, None], entropy[part, None], *slopes)
            slope = slope.div_(ctx.temperature).to(head.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = _product(slope, head, real)
            if grad_head is not None:
                grad_head += _product(slope.T, hidden[part], real)
        return grad_hidden, None if grad_head is None else grad_head.to(weight.dtype), *[None] * 3


def _logit_slope(
    logprobs: Tensor,
    targets: Tensor,
    entropy: Tensor,
    from_logp: Tensor | None,
    from_entropy: Tensor | None,
) -> Tensor:
    """Gradient by the logits [n, V] from those by log-probability and entropy, each [n, 1]."""
    slope = logprobs.exp()
    if from_entropy is not None:
        logprobs = (logprobs + entropy).mul_(-from_entropy)
        slope *= logprobs if from_logp is None else logprobs.sub_(from_logp)
    elif from_logp is not None:
        slope *= -from_logp
    else:
        slope.zero_()
    return slope if from_logp is None else slope.scatter_add_(1, targets, from_logp)


def _real(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _operand(weight: Tensor, real: torch.dtype) -> Tensor:
    """Keep reduced formats on CUDA, whose matrix units accumulate them in float32."""
    return weight if weight.is_cuda else weight.to(real)


def _product(left: Tensor, right: Tensor, real: torch.dtype) -> Tensor:
    """Matrix product accumulated and returned in `real`, whatever autocast is in force."""
    with torch.autocast(left.device.type, enabled=False):
        if left.is_cuda and left.dtype == right.dtype != real:
            return torch.mm(left, right, out_dtype=real)
        return left.to(real) @ right.to(real)


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))
