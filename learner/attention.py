"""Attention inside each trajectory of a packed micro-batch, as a transformers implementation.

transformers masks a packed row with a dense block-diagonal [T, T]: it costs T² for a micro-batch of
T tokens, however short the trajectories are. Here queries, keys and values (only they) are laid
out as padded blocks [B, L] of trajectories of similar length, attended to causally, and put back:
the cost is Σ B L², and attention cannot cross trajectories because they never meet.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

PREFIX = "packed_"
"""`packed_sdpa` and `packed_eager` are the names registered with transformers."""
_UNSUPPORTED = ("dropout", "sliding_window", "softcap")


@dataclasses.dataclass(frozen=True, slots=True)
class Blocks:
    """How T packed tokens are laid out as padded blocks; built once per micro-batch.

    Attributes:
        sources: one int64 [B, L] per block, the token at each place; padding repeats token 0.
        places: int64 [T], where each token's result is in the concatenated flat blocks.
        causal: float32 [L, L] for the longest block, 0 on and below the diagonal, −inf above.
    """

    sources: list[Tensor]
    places: Tensor
    causal: Tensor

    @classmethod
    def of(cls, position_ids: Tensor) -> Blocks:
        """Lay out trajectories whose `position_ids` int64 [T] count up from 0 each.

        A block holds the trajectories whose lengths round up to the same power of two.
        """
        device = position_ids.device
        starts = torch.nonzero(position_ids == 0)[:, 0].cpu()
        ends = torch.cat([starts[1:], torch.tensor([len(position_ids)])])
        lengths = ends - starts
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
        longest = int(lengths.max())
        causal = torch.full((longest, longest), float("-inf"), device=device).triu(1)
        return cls(sources, places, causal)


def _packed_attention(
    attend: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    blocks: Blocks,
    scaling: float,
) -> Tensor:
    """Query, key, value [1, heads, T, D] → [1, T, heads, D]."""
    parts = [column[0].transpose(0, 1) for column in (query, key, value)]
    results = []
    for source in blocks.sources:
        laid = [part[source].transpose(1, 2) for part in parts]
        result = attend(*laid, blocks.causal, scaling)
        results.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(results)[blocks.places][None]


def _sdpa(query: Tensor, key: Tensor, value: Tensor, causal: Tensor, scaling: float) -> Tensor:
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def _eager(query: Tensor, key: Tensor, value: Tensor, causal: Tensor, scaling: float) -> Tensor:
    """Plain products; on CPU in bfloat16 faster than `_sdpa` at lengths of some hundreds."""
    repeats, length = query.shape[1] // key.shape[1], query.shape[2]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * scaling + causal[:length, :length]
    return scores.softmax(-1).to(value.dtype) @ value


def _implementation(attend: Any) -> Any:
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
        attended = _packed_attention(attend, query, key, value, blocks=blocks, scaling=scaling)
        return attended, None

    return forward


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


for _name, _attend in (("sdpa", _sdpa), ("eager", _eager)):
    AttentionInterface.register(PREFIX + _name, _implementation(_attend))
    AttentionMaskInterface.register(PREFIX + _name, _no_mask)
