"""Flash attention on a real GPU against the block-wise one; needs compute capability 8.0."""

import pytest
import torch

from learner.attention import Blocks, _flash, _in_blocks, _sdpa

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="flash attention needs an NVIDIA GPU of compute capability 8.0 or newer",
)


@pytest.mark.parametrize("kv_heads", [2, 8])
def test_flash_equals_blocks_forward_and_backward(kv_heads):
    generator = torch.Generator("cuda").manual_seed(0)
    lengths = (5, 1, 300, 64, 1000)
    positions = torch.cat([torch.arange(n) for n in lengths]).cuda()
    blocks = Blocks.of(positions)
    inputs = [
        torch.randn(len(positions), heads, 64, device="cuda", generator=generator)
        .bfloat16()
        .requires_grad_()
        for heads in (8, kv_heads, kv_heads)
    ]
    upstream = torch.randn(len(positions), 8, 64, device="cuda", generator=generator).bfloat16()
    results = []
    for attend in (_flash, _in_blocks(_sdpa)):
        attended = attend(*inputs, blocks, 0.125)
        results.append((attended, *torch.autograd.grad(attended, inputs, upstream)))
    for flash, block in zip(*results, strict=True):
        torch.testing.assert_close(flash, block, atol=3e-2, rtol=3e-2)
