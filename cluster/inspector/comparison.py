"""Two episodes of one task, turn by turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from cluster.inspector.difference import difference
from cluster.inspector.episode import Split


def compare(old: Split, new: Split) -> list[dict[str, Any]]:
    """For each turn of the longer one, how its `text` and what was `observed` after it differ."""
    pairs = zip_longest(_turns(old), _turns(new), fillvalue=("", ""))
    return [
        {
            "number": number,
            "text": difference(before[0], after[0]),
            "observed": difference(before[1], after[1]),
        }
        for number, (before, after) in enumerate(pairs)
    ]


def _turns(told: Split) -> Iterator[tuple[str, str]]:
    for text, observed in told.turns:
        yield text or "", "\n".join(message.content for message in observed)
