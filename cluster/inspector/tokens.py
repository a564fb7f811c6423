"""Text of single tokens, with the tokenizer that lies in the run directory or beside its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_FILE = "tokenizer.json"


def find_tokenizer(run: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    """The director's tokenizer; None where it is on no disk of this machine."""
    named = (config.get("model") or {}).get("path")
    directories = [run / "base", *([Path(named)] if named else [])]
    found = next((d / _FILE for d in directories if (d / _FILE).is_file()), None)
    try:
        return Tokenizer.from_file(str(found)) if found else None
    except Exception:  # noqa: BLE001 - the library raises nothing narrower; ids are shown instead
        return None


def pieces(tokenizer: Tokenizer | None, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; bytes of a character appear with its last token.

    Without a tokenizer, and for ids that it does not know, a token reads `⟨id⟩`.
    """
    if tokenizer is None:
        return [f"⟨{number}⟩" for number in ids]
    stream = DecodeStream(skip_special_tokens=False)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return [
        (stream.step(tokenizer, number) or "") if 0 <= number < size else f"⟨{number}⟩"
        for number in ids
    ]
