"""PopQA: an answer counts if a possible answer occurs in it."""

from __future__ import annotations

from collections.abc import Iterable


def contained(answer: str, golds: Iterable[str]) -> bool:
    """True when a gold occurs in the answer as it is, lower-cased, or capitalised.

    Nothing is stripped from either side, and the answer keeps its case (the official rule).
    """
    return any(
        gold and (gold in answer or gold.lower() in answer or gold.capitalize() in answer)
        for gold in golds
    )
