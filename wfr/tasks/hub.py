"""Rows of a Hugging Face dataset: `hub:NAME[:CONFIG[:SPLIT]]`, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wfr.tasks.rows import FormatError, Row

PREFIX = "hub:"


def hub_rows(address: str) -> Iterator[Row]:
    """Every row of a split (`train` unless named); raises FormatError where it cannot be had."""
    name, config, split = parse(address)
    try:
        from datasets import load_dataset
    except ImportError:
        raise FormatError(
            f"{address}: the package `datasets` is not installed; pip install 'wfr[run]'"
        ) from None
    try:
        found: Any = load_dataset(name, config, split=split, streaming=True)
        for index, row in enumerate(found):
            yield f"{address}: row {index}", row
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(f"{address}: cannot be read: {error}") from None


def parse(address: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of an address; raises FormatError."""
    name, _, rest = address.removeprefix(PREFIX).partition(":")
    config, _, split = rest.partition(":")
    if not name or ":" in split:
        raise FormatError(f"{address!r}: expected hub:NAME[:CONFIG[:SPLIT]]")
    return name, config or None, split or "train"
