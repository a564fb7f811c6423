"""Log-probabilities and entropies of given tokens, from hidden states, in tiles of the logits.

    z = W h / τ        log p(y) = z_y − lse(z)        H = lse(z) − Σ_v p_v z_v

The logits of all tokens would be [N, V]. Here no more than one tile of them exists, so many tokens
by so many words of the vocabulary: the forward pass folds tile after tile into a running maximum m,
Σ exp(z − m) and Σ exp(z − m) (z − m) of each token (online softmax, arXiv 1805.02867), and the
backward pass computes each tile anew:

    ∂ log p(y) / ∂z_v = 1[v = y] − p_v        ∂H / ∂z_v = −p_v (z_v − lse(z) + H)

It goes through the vocabulary in the outer loop, so that the gradient of the head is complete tile
by tile and never needs a second copy to add up in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """Size of a tile of the logits."""

    tokens: int
    words: int


TILE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Logits that exist at once: on CPU what stays in a core's cache, on GPU 128 MiB of float32."""
TILE_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens of a tile where the vocabulary is large; tiles much narrower make products inefficient."""
_LOWEST = -1e30  # below every logit, and finite: a difference of two is no NaN


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it was drawn from.

    Args:
        hidden: [N, D] hidden state before each target; any float type; differentiable.
        weight: [V, D] of the language-model head, tied or not; differentiable.
        targets: int64 [N].
        temperature: τ of the sampler; logits are divided by it.
        tile: logits that exist at once; none: chosen for the device and vocabulary.

    Returns:
        (log-probabilities [N], entropies [N]) in float32, or float64 if `hidden` is float64;
        products are accumulated in that type too.
    """
    if tile is None:
        tile = _tile(len(weight), hidden.device.type)
    logp, entropy = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, tile
    )
    return logp, entropy


def _tile(vocabulary: int, device: str) -> Tile:
    """The whole vocabulary by as many tokens as fit, or as many words as fit by TILE_TOKENS."""
    words = min(vocabulary, TILE_ELEMENTS[device] // TILE_TOKENS[device])
    return Tile(TILE_ELEMENTS[device] // words, words)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, tile: Tile
    ) -> tuple[Tensor, Tensor]:
        real = _real(hidden)
        logp, entropy, total = torch.empty(3, len(hidden), dtype=real, device=hidden.device)
        fold_type = _FusedFold if _fused(hidden) else _Fold
        for part in _slices(len(hidden), tile.tokens):
            fold = fold_type(targets[part], real, temperature)
            for words in _slices(len(weight), tile.words):
                fold.add(_product(hidden[part], weight[words].T, real), words.start)
            logp[part], entropy[part], total[part] = fold.result()
        ctx.save_for_backward(hidden, weight, targets, total, entropy)
        ctx.temperature, ctx.tile = temperature, tile
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, total, entropy = ctx.saved_tensors
        real = _real(hidden)
        kind = hidden.dtype if hidden.dtype == weight.dtype else real
        slope_of = _fused_slope if _fused(hidden) else _slope
        for_hidden, for_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden, dtype=real) if for_hidden else None
        grad_head = torch.empty_like(weight) if for_head else None
        for words in _slices(len(weight), ctx.tile.words):
            head = weight[words]
            grad_words = torch.zeros_like(head, dtype=real) if for_head else None
            for part in _slices(len(hidden), ctx.tile.tokens):
                logits = _product(hidden[part], head.T, real)
                local = targets[part] - words.start
                by_logp, by_entropy = (None if grad is None else grad[part] for grad in grads)
                known = ctx.temperature, total[part], entropy[part]
                slope = slope_of(logits, local, *known, by_logp, by_entropy, kind)
                if grad_hidden is not None:
                    grad_hidden[part] += _product(slope, head, real)
                if grad_words is not None:
                    grad_words += _product(slope.T, hidden[part], real)
            if grad_head is not None and grad_words is not None:
                grad_head[words] = grad_words
        return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_head, *[None] * 3


class _Fold:
    """Running sums over the tiles of one part of the tokens, each [n]."""

    def __init__(self, targets: Tensor, real: torch.dtype, temperature: float) -> None:
        self._targets = targets
        self._temperature = temperature
        self._top = torch.full(targets.shape, _LOWEST, dtype=real, device=targets.device)
        self._sum, self._moment, self._target = torch.zeros_like(self._top).repeat(3, 1)

    def add(self, logits: Tensor, start: int) -> None:
        """Take in the logits [n, words] of the words from `start` on, which are overwritten."""
        logits /= self._temperature
        local = self._targets - start
        inside = (local >= 0) & (local < logits.shape[1])
        target = logits.gather(1, local.where(inside, 0)[:, None])[:, 0]
        self._target = target.where(inside, self._target)
        top = torch.maximum(self._top, logits.amax(1))
        shift = self._top - top
        logits -= top[:, None]
        weights = logits.exp()
        scale = shift.exp()
        self._moment = scale * (self._moment + self._sum * shift)
        self._moment += torch.linalg.vecdot(weights, logits)
        self._sum = scale * self._sum + weights.sum(1)
        self._top = top

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability of the target, entropy, and lse(z)."""
        log_sum = self._sum.log()
        total = self._top + log_sum
        return self._target - total, log_sum - self._moment / self._sum, total


class _FusedFold(_Fold):
    """The same on a GPU, in one pass over each tile."""

    def add(self, logits: Tensor, start: int) -> None:
        """Take in the logits [n, words] of the words from `start` on."""
        from learner.logprob_kernels import fold

        sums = self._top, self._sum, self._moment, self._target
        fold(logits, self._targets - start, self._temperature, sums)


def _slope(
    logits: Tensor,
    local: Tensor,
    temperature: float,
    total: Tensor,
    entropy: Tensor,
    from_logp: Tensor | None,
    from_entropy: Tensor | None,
    kind: torch.dtype,
) -> Tensor:
    """Gradient by a tile of logits [n, words], which is overwritten, in `kind`.

    `local` [n] are the targets, counted from the first word of the tile; many lie outside. `total`
    [n] is lse(z), and `from_logp` and `from_entropy` [n] are the gradients by the two results.
    """
    logprobs = logits.div_(temperature).sub_(total[:, None])
    slope = logprobs.exp()
    if from_entropy is not None:
        logprobs = (logprobs + entropy[:, None]).mul_(-from_entropy[:, None])
        slope *= logprobs if from_logp is None else logprobs.sub_(from_logp[:, None])
    elif from_logp is not None:
        slope *= -from_logp[:, None]
    else:
        slope.zero_()
    if from_logp is not None:
        inside = (local >= 0) & (local < slope.shape[1])
        gain = from_logp.where(inside, 0)
        slope.scatter_add_(1, local.where(inside, 0)[:, None], gain[:, None])
    return slope.div_(temperature).to(kind)


def _fused_slope(*arguments: Any) -> Tensor:
    """The same on a GPU, in one pass over each tile."""
    from learner.logprob_kernels import slope

    return slope(*arguments)


def _fused(hidden: Tensor) -> bool:
    return hidden.is_cuda and hidden.dtype != torch.float64


def _real(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _product(left: Tensor, right: Tensor, real: torch.dtype) -> Tensor:
    """Matrix product accumulated and returned in `real`, whatever autocast is in force.

    Reduced formats keep the matrix units that are made for them: on CUDA with a wider result, on
    CPU by reducing, without any loss, what was reduced before it was widened.
    """
    reduced = left.dtype == right.dtype != real
    with torch.autocast(left.device.type, enabled=False):
        if left.is_cuda and reduced:
            return torch.mm(left, right, out_dtype=real)
        with _bfloat16_units(reduced and left.dtype == torch.bfloat16):
            return left.to(real) @ right.to(real)


@contextlib.contextmanager
def _bfloat16_units(wanted: bool) -> Iterator[None]:
    """Multiply float32 matrices on the CPU as bfloat16, adding up in float32."""
    if not wanted:
        yield
        return
    matmul: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (has no type)
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
