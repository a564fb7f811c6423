"""Attention inside each trajectory of a packed micro-batch, as a transformers implementation.

transformers masks a packed row with a dense block-diagonal [T, T]: it costs T² for a micro-batch of
T tokens, however short the trajectories are. Here queries, keys and values (only they) are laid
out as padded blocks [B, L] of trajectories of similar length, attended to causally, and put back:
the cost is Σ B L², and attention cannot cross trajectories because they never meet.

`flash` needs no blocks: torch's own flash attention takes the flat tokens with their boundaries.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

AttentionKind = Literal["sdpa", "eager", "flash"]
IMPLEMENTATIONS = {"sdpa": "packed_sdpa", "eager": "packed_eager", "flash": "packed_varlen"}
"""Names registered with transformers, which takes any name with `flash` in it for its own."""
_UNSUPPORTED = ("dropout", "sliding_window", "softcap")
_FLASH_CAPABILITY = (8, 0)


def check_attention(kind: AttentionKind, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError, naming the setting and the remedy, where `kind` cannot run."""
    if kind != "flash":
        return
    found = f"the device is {device.type}"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        found = f"the device has compute capability {capability[0]}.{capability[1]}"
        if capability >= _FLASH_CAPABILITY:
            if dtype == torch.bfloat16:
                return
            found = f"learner.dtype is {str(dtype).removeprefix('torch.')}"
    raise ValueError(
        "learner.attention='flash' needs a CUDA device of compute capability 8.0 or newer and "
        f"learner.dtype='bfloat16', but {found}; set learner.attention to 'sdpa'"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Blocks:
    """How T packed tokens are laid out as padded blocks; built once per micro-batch.

    Attributes:
        sources: one int64 [B, L] per block, the token at each place; padding repeats token 0.
        places: int64 [T], where each token's result is in the concatenated flat blocks.
        bounds: int32 [N + 1], where each of the N trajectories starts, and T.
        longest: tokens of the longest trajectory.
    """

    sources: list[Tensor]
    places: Tensor
    bounds: Tensor
    longest: int

    @classmethod
    def of(cls, position_ids: Tensor) -> Blocks:
        """Lay out trajectories whose `position_ids` int64 [T] count up from 0 each.

        A block holds the trajectories whose lengths round up to the same power of two.
        """
        device = position_ids.device
        starts = torch.nonzero(position_ids == 0)[:, 0].cpu()
        bounds = torch.cat([starts, torch.tensor([len(position_ids)])])
        lengths = bounds.diff()
        octaves = torch.log2(lengths.double()).ceil()
        sources, cursor = [], 0
        bases = torch.zeros_like(starts)
        for octave in sorted(set(octaves.tolist())):
            chosen = torch.nonzero(octaves == octave)[:, 0]
            rows, longest = len(chosen), int(lengths[chosen].max())
            bases[chosen] = cursor + torch.arange(rows) * longest
            offsets = torch.arange(longest)
            inside = offsets < lengths[chosen, None]
            sources.append((starts[chosen, None] + offsets).where(inside, 0).to(device))
            cursor += rows * longest
        places = bases.repeat_interleave(lengths).to(device) + position_ids
        return cls(sources, places, bounds.int().to(device), int(lengths.max()))


def _in_blocks(attend: Any) -> Any:
    """Turn attention on [B, heads, L, D] into attention on packed tokens."""

    def packed(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float) -> Tensor:
        results = []
        for source in blocks.sources:
            laid = [part[source].transpose(1, 2) for part in (query, key, value)]
            results.append(attend(*laid, scaling).transpose(1, 2).flatten(0, 1))
        return torch.cat(results)[blocks.places]

    return packed


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def _eager(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Plain products; on CPU in bfloat16 faster than `_sdpa` at lengths of some hundreds."""
    repeats, length = query.shape[1] // key.shape[1], query.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = query @ key.transpose(2, 3) * scaling
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill_(later, float("-inf")).softmax(-1).to(value.dtype) @ value


def _flash(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float) -> Tensor:
    # Grouped heads need torch 2.12; equal ones do without the argument.
    grouped: Any = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    attended = varlen_attn(
        query,
        key,
        value,
        blocks.bounds,
        blocks.bounds,
        blocks.longest,
        blocks.longest,
        scale=scaling,
        window_size=(-1, 0),
        **grouped,
    )
    assert isinstance(attended, Tensor)  # nothing besides was asked for
    return attended


def _implementation(attend: Any) -> Any:
    """What transformers calls: query, key, value [1, heads, T, D] → [1, T, heads, D]."""

    def forward(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float,
        blocks: Blocks | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        unknown = {name: others[name] for name in _UNSUPPORTED if others.get(name)}
        if blocks is None or unknown:
            raise ValueError(
                "packed attention needs the layout of the micro-batch (learner.policy passes it) "
                f"and does not support {', '.join(_UNSUPPORTED)}; got {unknown}"
            )
        packed = (part[0].transpose(0, 1) for part in (query, key, value))
        return attend(*packed, blocks, scaling)[None], None

    return forward


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


for _kind, _attend in (
    ("sdpa", _in_blocks(_sdpa)),
    ("eager", _in_blocks(_eager)),
    ("flash", _flash),
):
    AttentionInterface.register(IMPLEMENTATIONS[_kind], _implementation(_attend))
    AttentionMaskInterface.register(IMPLEMENTATIONS[_kind], _no_mask)
