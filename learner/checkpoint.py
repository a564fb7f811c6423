"""Checkpoints: a Hugging Face directory that appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from learner.lora import save_adapter
from wfr.crash_points import reach
from wfr.learner_config import LoraConfig

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "generation_config.json",
)

TRAINING = "training"
"""Directory of a checkpoint with what only a resumed run needs: optimizer state, random numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on its own: weights by peft's names, settings, and what it belongs to."""

    weights: Mapping[str, torch.Tensor]
    config: LoraConfig
    base: str


def save_checkpoint(
    model: PreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    *,
    source: Path,
    target: Path,
    adapter: Adapter | None = None,
    training: Path | None = None,
) -> None:
    """Write `weights` with the tokenizer of `source` to `target`, by a temporary name and a rename.

    `state` (JSON) goes to `wfr_state.json` beside them, and `adapter` into a directory of that
    name: beside the merged weights, transformers would apply it to them once more. The directory
    `training` becomes `training/` in it. An older checkpoint there is replaced.
    """
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary, state_dict=dict(weights))
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copy2(source / name, temporary / name)
    (temporary / "wfr_state.json").write_text(json.dumps(dict(state), indent=2) + "\n")
    if adapter is not None:
        save_adapter(
            adapter.weights, adapter.config, base=adapter.base, target=temporary / "adapter"
        )
    reach("checkpoint.begin")
    if training is not None:
        training.rename(temporary / TRAINING)
    _force(temporary)
    reach("checkpoint.written")
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    _force(target.parent, deep=False)
    reach("checkpoint.visible")


def _force(directory: Path, *, deep: bool = True) -> None:
    """Force a directory, and all that is in it, to the disk before its name says it is there."""
    for path in [directory, *(directory.rglob("*") if deep else ())]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
