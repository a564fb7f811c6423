"""Triton kernels for `learner.logprobs` on a GPU: a tile of logits is read once, not ten times.

Without them the passes over a tile that torch makes, one per operation, take four times as long as
the matrix products that they stand between. The arithmetic is that of `learner.logprobs`, in
float32; `tests/gpu/test_logprob_kernels.py` compares the two. Triton reads annotations of a kernel
and knows none but its own, so the kernels go without.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WORDS = 2048
"""Words of a row that a program holds at once."""


def fold(
    logits: Tensor, local: Tensor, temperature: float, sums: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    """Take the tile `logits` float32 [n, words] into the running sums.

    Args:
        logits: before the division by `temperature`.
        local: int64 [n], targets counted from the tile's first word; many lie outside.
        temperature: τ.
        sums: float32 [n] each and changed in place: largest logit so far; Σ e^(z − top);
            Σ e^(z − top) (z − top); logit of the target.
    """
    rows, words = logits.shape
    _fold[(rows,)](
        logits,
        logits.stride(0),
        local,
        *sums,
        words,
        1 / temperature,
        block=_WORDS,
        num_warps=8,
    )


def slope(
    logits: Tensor,
    local: Tensor,
    temperature: float,
    total: Tensor,
    entropy: Tensor,
    from_logp: Tensor | None,
    from_entropy: Tensor | None,
    kind: torch.dtype,
) -> Tensor:
    """Gradient by the tile `logits` float32 [n, words], in `kind`.

    `total` is lse(z), and `from_logp` and `from_entropy` are the gradients by the two results; all
    of them are float32 [n].
    """
    rows, words = logits.shape
    result = torch.empty(rows, words, dtype=kind, device=logits.device)
    _slope[(rows, triton.cdiv(words, _WORDS))](
        logits,
        logits.stride(0),
        result,
        local,
        total,
        entropy,
        total if from_logp is None else from_logp.contiguous(),
        total if from_entropy is None else from_entropy.contiguous(),
        words,
        1 / temperature,
        by_logp=from_logp is not None,
        by_entropy=from_entropy is not None,
        block=_WORDS,
        num_warps=8,
    )
    return result


@triton.jit
def _fold(
    logits,
    stride,
    local,
    tops,
    sums,
    moments,
    targets,
    words,
    scale,
    block: tl.constexpr,
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    start_of_row = logits + row * stride
    top, total, moment = tl.load(tops + row), tl.load(sums + row), tl.load(moments + row)
    for start in range(0, words, block):
        places = start + tl.arange(0, block)
        inside = places < words
        z = tl.load(start_of_row + places, mask=inside, other=0.0) * scale
        higher = tl.maximum(top, tl.max(tl.where(inside, z, top), axis=0))
        shift = top - higher
        shrink = tl.exp(shift)
        weights = tl.where(inside, tl.exp(z - higher), 0.0)
        moment = shrink * (moment + total * shift) + tl.sum(weights * (z - higher), axis=0)
        total = shrink * total + tl.sum(weights, axis=0)
        top = higher
    tl.store(tops + row, top)
    tl.store(sums + row, total)
    tl.store(moments + row, moment)
    place = tl.load(local + row)
    if (place >= 0) & (place < words):
        tl.store(targets + row, tl.load(start_of_row + place) * scale)


@triton.jit
def _slope(
    logits,
    stride,
    result,
    local,
    totals,
    entropies,
    from_logp,
    from_entropy,
    words,
    scale,
    by_logp: tl.constexpr,
    by_entropy: tl.constexpr,
    block: tl.constexpr,
):
    """One program for a block of a row."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * block + tl.arange(0, block)
    inside = places < words
    z = tl.load(logits + row * stride + places, mask=inside, other=0.0) * scale
    logp = z - tl.load(totals + row)
    probability = tl.exp(logp)
    found = tl.zeros_like(probability)
    if by_entropy:
        found -= tl.load(from_entropy + row) * probability * (logp + tl.load(entropies + row))
    if by_logp:
        hit = tl.where(places == tl.load(local + row), 1.0, 0.0)
        found += tl.load(from_logp + row) * (hit - probability)
    found = (found * scale).to(result.dtype.element_ty)
    tl.store(result + row * words + places, found, mask=inside)
