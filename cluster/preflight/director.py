"""Is the director a checkpoint that this system can sample from, train and speak to?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.preflight.check import Check
from cluster.preflight.footprint import weight_files

TAGS = ("<think>", "</think>", "<tool>", "</tool>", "<answer>", "</answer>")


def model_checks(path: str | None) -> list[Check]:
    """The director is a checkpoint that this system can sample from, train and speak to."""
    if path is None:
        return [Check("model", ok=True, detail="the embedded tiny director")]
    check = checkpoint_check(Path(path))
    return [check, tokenizer_check(path, _load_tokenizer)] if check.ok else [check]


def checkpoint_check(path: Path) -> Check:
    """`path` is a Hugging Face checkpoint: configuration, weights and tokenizer."""
    faults = list(_checkpoint_faults(path))
    return Check(
        "model",
        not faults,
        f"{path}: {'; '.join(faults) or 'a Hugging Face checkpoint'}",
        "set model.path to a directory written by `save_pretrained` (model and tokenizer), or "
        "leave it out for the embedded director",
    )


def tokenizer_check(path: str, load: Callable[[str], Any]) -> Check:
    """Every tag of the protocol survives encoding and decoding, and there is a chat template."""
    try:
        tokenizer = load(path)
    except Exception as error:  # noqa: BLE001  # tokenizers raises bare Exception for broken files
        faults = [f"cannot be loaded: {type(error).__name__}: {error}"]
    else:
        lost = [tag for tag in TAGS if tag not in _round_trip(tokenizer, tag)]
        faults = [f"loses {', '.join(lost)}"] if lost else []
        faults += [] if tokenizer.chat_template else ["has no chat template"]
    return Check(
        "tokenizer",
        not faults,
        f"{path}: {'; '.join(faults) or 'keeps every tag of the protocol'}",
        "use a tokenizer with a chat template whose vocabulary can spell the tags",
    )


def _checkpoint_faults(path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield "is not a directory" if path.exists() else "does not exist"
        return
    yield from _architecture_faults(path / "config.json")
    present = {file.name for file in weight_files(path)}
    index = path / "model.safetensors.index.json"
    shards = set(_json(index).get("weight_map", {}).values()) if index.exists() else set()
    if not present:
        yield "no weights (*.safetensors or pytorch_model*.bin)"
    elif shards - present:
        yield f"weights missing: {', '.join(sorted(shards - present))}"
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        yield "no tokenizer (tokenizer.json or tokenizer_config.json)"


def _architecture_faults(file: Path) -> Iterator[str]:
    if not file.exists():
        yield "no config.json"
    elif not _json(file).get("architectures"):
        yield "config.json names no architectures"


def _json(file: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object; an empty one where it does not."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def _round_trip(tokenizer: Any, text: str) -> str:
    return str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)))
