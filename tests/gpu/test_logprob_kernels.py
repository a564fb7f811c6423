"""Log-probabilities on a GPU: the kernels against the plain passes over the same tiles.

With TRITON_INTERPRET=1 Triton runs them on a CPU too, slowly.
"""

from __future__ import annotations

import os

import pytest
import torch

from learner import logprobs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs an NVIDIA GPU, or TRITON_INTERPRET=1 and Triton",
)

TOKENS, WIDTH, WORDS = 70, 48, 5000


def _run(dtype, tile, slopes, temperature=0.7):
    """Log-probabilities, entropies and gradients of hidden states and head."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator)
    weight = torch.randn(WORDS, WIDTH, generator=generator) / WIDTH**0.5
    targets = torch.randint(WORDS, (TOKENS,), generator=generator).to(DEVICE)
    hidden, weight = (x.to(DEVICE, dtype).requires_grad_() for x in (hidden, weight))
    results = logprobs.token_logprobs(
        hidden, weight, targets, temperature=temperature, tile=logprobs.Tile(*tile)
    )
    along = torch.linspace(-1, 1, TOKENS, device=DEVICE)
    sum((r * along * s).sum() for r, s in zip(results, slopes, strict=True) if s).backward()
    return [*(r.detach() for r in results), hidden.grad, weight.grad]


@pytest.mark.parametrize("tile", [(70, 5000), (32, 2048), (33, 1777)])
@pytest.mark.parametrize("slopes", [(1, 0), (0, 1), (1, 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_plain_passes(monkeypatch, dtype, tile, slopes):
    monkeypatch.setattr(logprobs, "_fused", lambda hidden: True)
    fused = _run(dtype, tile, slopes)
    monkeypatch.setattr(logprobs, "_fused", lambda hidden: False)
    plain = _run(dtype, tile, slopes)
    loose = dtype == torch.bfloat16
    for number, (mine, theirs) in enumerate(zip(fused, plain, strict=True)):
        # Gradients in bfloat16 are rounded once, wherever the sums before differ in the last bit.
        bound = 1e-2 if loose and number > 1 else 2e-5
        torch.testing.assert_close(mine, theirs, atol=bound, rtol=bound)
