"""Short-answer grading: SQuAD's normalisation, exact match and token F1."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable

Normalise = Callable[[str], str]
"""What is done to both sides before they are compared."""

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LONGEST = 1 << 16


@functools.lru_cache(maxsize=1 << 14)
def normalise(text: str) -> str:
    """Lower-case, delete ASCII punctuation, blank out articles, collapse white space (SQuAD)."""
    bare = text[:_LONGEST].lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, golds: Iterable[str], normal: Normalise = normalise) -> bool:
    """True when the answer equals any gold answer after normalisation."""
    mine = normal(answer)
    return any(mine == normal(gold) for gold in golds)


def token_f1(answer: str, gold: str, normal: Normalise = normalise) -> float:
    """Bag-of-tokens F1 after normalisation; without tokens on a side, 1 only if both have none."""
    mine, theirs = normal(answer).split(), normal(gold).split()
    if not mine or not theirs:
        return float(mine == theirs)
    common = sum((Counter(mine) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(mine), common / len(theirs)
    return 2 * precision * recall / (precision + recall)


def best_f1(answer: str, golds: Iterable[str], normal: Normalise = normalise) -> float:
    """The best token F1 over the gold answers."""
    return max((token_f1(answer, gold, normal) for gold in golds), default=0.0)


def contains(answer: str, golds: Iterable[str], normal: Normalise = normalise) -> bool:
    """True when a gold answer's tokens stand next to each other in the answer's."""
    mine = f" {normal(answer)} "
    return any(theirs and f" {theirs} " in mine for theirs in map(normal, golds))
