"""Checkpoints: a Hugging Face directory that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

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


def save_checkpoint(
    model: PreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    *,
    source: Path,
    target: Path,
) -> None:
    """Write `weights` with the tokenizer of `source` to `target`, by a temporary name and a rename.

    `state` (JSON) goes to `wfr_state.json` beside them. An older checkpoint there is replaced.
    """
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.save_pretrained(temporary, state_dict=dict(weights))
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copy2(source / name, temporary / name)
    (temporary / "wfr_state.json").write_text(json.dumps(dict(state), indent=2) + "\n")
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
