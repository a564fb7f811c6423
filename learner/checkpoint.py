"""Checkpoints: what a rank keeps of a step in memory, and writes while training goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from learner.lora import save_adapter
from learner.partitions import Share
from wfr.checkpoint_directory import STATE, TRAINING, force, force_all
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


@dataclasses.dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on its own: weights by peft's names, settings, and what it belongs to."""

    weights: Mapping[str, torch.Tensor]
    config: LoraConfig
    base: str


@dataclasses.dataclass(frozen=True, slots=True)
class Director:
    """The whole director as one rank writes it.

    Attributes:
        model: whose configuration goes beside the weights.
        weights: copies in CPU memory, adapters merged in, by Hugging Face's names.
        source: the directory with its tokenizer.
        state: what goes to `wfr_state.json`.
        adapter: goes into a directory of that name: beside the merged weights, transformers would
            apply it to them once more.
    """

    model: PreTrainedModel
    weights: Mapping[str, torch.Tensor]
    source: Path
    state: Mapping[str, Any]
    adapter: Adapter | None

    def write(self, directory: Path) -> None:
        """Write a Hugging Face checkpoint into `directory`, which is there."""
        self.model.save_pretrained(directory, state_dict=dict(self.weights))
        for name in TOKENIZER_FILES:
            if (self.source / name).exists():
                shutil.copy2(self.source / name, directory / name)
        (directory / STATE).write_text(json.dumps(dict(self.state), indent=2) + "\n")
        if self.adapter is not None:
            config, base = self.adapter.config, self.adapter.base
            save_adapter(self.adapter.weights, config, base=base, target=directory / "adapter")


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What one rank writes of a step: its share of the state, and on rank 0 the director.

    All of it is copied, so `write` may run beside later steps, and again where it failed.
    """

    share: Share
    director: Director | None

    def write(self, directory: Path) -> None:
        """Write all files of this rank and force them to the disk.

        The checkpoint is whole when every rank has done so, and counts once it is sealed.
        """
        reach("checkpoint.begin")
        with _disk_errors():
            force(self.share.write(directory / TRAINING))
            if self.director is not None:
                self.director.write(directory)
                force_all(directory)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Let what safetensors says of a disk be an OSError: the number is in its text alone."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), str(error)) from error
