"""The director's weights as samplers and checkpoints know them: base names, adapters merged in.

Where a LoRA adapter stands beside a matrix (`learner.lora`), the whole matrix is

    W + (α / r) B A        arXiv 2106.09685, eq. 3

made anew each time it is asked for, so the weights in training never change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

ADAPTER = "default"
"""Name of the one adapter that a director may have."""
_BASE_LAYER = ".base_layer."


@dataclasses.dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the director.

    Attributes:
        base: what the checkpoint calls it; under ZeRO-3 this rank holds only a part of it.
        factors: A and B of its adapter; empty where there is none.
        change: makes what the adapter adds to `base`, of its shape; none where there is no adapter.
    """

    base: nn.Parameter
    factors: tuple[nn.Parameter, ...] = ()
    change: Callable[[], Tensor] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What has to be gathered before `whole` is called."""
        return [self.base, *self.factors]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the whole tensor."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor, also while it is partitioned."""
        return tuple(getattr(self.base, "ds_shape", self.base.shape))

    @torch.no_grad()
    def whole(self) -> Tensor:
        """The tensor with its adapter merged in; without one, a view of the weight itself."""
        base = self.base.detach()
        return base if self.change is None else base + self.change()


def director_weights(model: nn.Module) -> dict[str, Weight]:
    """Every weight of `model` by the name in its checkpoint; tied ones once."""
    modules = dict(model.named_modules())
    weights = {}
    for name, parameter in model.named_parameters():
        owner, is_base, leaf = name.rpartition(_BASE_LAYER)
        if is_base:
            weights[f"{owner}.{leaf}"] = _adapted(parameter, modules[owner], leaf)
        elif not name.endswith(f".{ADAPTER}.weight"):
            weights[name] = Weight(parameter)
    return weights


def _adapted(parameter: nn.Parameter, layer: nn.Module, leaf: str) -> Weight:
    """The weight of an adapted layer; its bias has no adapter."""
    if leaf != "weight":
        return Weight(parameter)
    factors = layer.lora_A, layer.lora_B
    pair = tuple(factor[ADAPTER].weight for factor in factors)  # type: ignore[index,union-attr]
    return Weight(parameter, pair, lambda: layer.get_delta_weight(ADAPTER))  # type: ignore[operator]
