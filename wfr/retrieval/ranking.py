"""Ranking: words of a text, and the best of many scores."""

from __future__ import annotations

import re

import numpy as np

K1, B = 1.2, 0.5
"""BM25's parameters, in memory and on a disk alike."""
TITLE_COUNTS = 3
"""How often a title counts on top of the text."""
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def best(scores: np.ndarray, top_k: int) -> list[int]:
    """Indices of at most `top_k` scores above 0, best first; equal ones in the order they have.

    `scores` is float [n]; takes O(n), whatever matches.
    """
    if len(scores) > top_k:
        bound = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
        found = np.flatnonzero((scores >= bound) & (scores > 0))
    else:
        found = np.flatnonzero(scores > 0)
    order = np.argsort(-scores[found], kind="stable")[:top_k]
    return [int(index) for index in found[order]]
