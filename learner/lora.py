"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: a few parameters learn, the rest stay.

An adapter is put beside the targeted matrices in place, so the model keeps its class and its
forward pass. `learner.director_weights` merges it for samplers and checkpoints; switched off, the
model is the frozen reference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from learner.director_weights import ADAPTER
from wfr.learner_config import LoraConfig

_PEFT_PREFIX = "base_model.model."


def adapt(model: nn.Module, config: LoraConfig) -> None:
    """Freeze `model` and put trainable adapters beside the matrices that `config` targets.

    The adapted model computes what it did before: B starts at 0.

    Raises:
        ValueError: a target is no linear layer inside the model's layers.
    """
    present = _linear_names(model)
    unknown = sorted(set(config.targets) - present)
    if unknown:
        raise ValueError(
            f"learner.lora.targets: the model has no linear layer named {', '.join(unknown)}; "
            f"it has {', '.join(sorted(present))}"
        )
    inject_adapter_in_model(_peft_config(config), model, ADAPTER)


@contextlib.contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Make `model` compute what its frozen weights alone say, inside the block."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights, by the names that peft reads."""
    mark = f".{ADAPTER}.weight"
    return {
        f"{_PEFT_PREFIX}{name.removesuffix(mark)}.weight": parameter
        for name, parameter in model.named_parameters()
        if name.endswith(mark)
    }


def save_adapter(
    weights: Mapping[str, Tensor], config: LoraConfig, *, base: str, target: Path
) -> None:
    """Write what `peft.PeftModel.from_pretrained` reads; `base` is the checkpoint it belongs to."""
    target.mkdir()
    settings = _peft_config(config)
    settings.base_model_name_or_path = base
    settings.inference_mode = True
    settings.save_pretrained(str(target))
    save_file(dict(weights), target / "adapter_model.safetensors", {"format": "pt"})


def _peft_config(config: LoraConfig) -> Any:
    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )


def _linear_names(model: nn.Module) -> set[str]:
    """Last parts of the names of linear layers, the language-model head left out."""
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
