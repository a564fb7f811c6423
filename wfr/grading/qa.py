"""Short-answer grading: SQuAD normalisation, exact match, token F1 with HotpotQA's yes/no rule."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})


def normalise(text: str) -> str:
    """Lower-case, delete ASCII punctuation, blank out articles, collapse white space (SQuAD)."""
    bare = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, golds: Iterable[str]) -> bool:
    """True when the answer equals any gold answer after normalisation."""
    normal = normalise(answer)
    return any(normal == normalise(gold) for gold in golds)


def answer_f1(answer: str, gold: str) -> float:
    """Bag-of-tokens F1 after normalisation, as HotpotQA's evaluation defines it.

    If either side is yes, no or noanswer and the other differs, the score is 0.
    """
    left, right = normalise(answer), normalise(gold)
    if left != right and (left in _CLOSED or right in _CLOSED):
        return 0.0
    return _bag_f1(left.split(), right.split())


def _bag_f1(answer: list[str], gold: list[str]) -> float:
    common = sum((Counter(answer) & Counter(gold)).values())
    if not common:
        return 0.0
    precision, recall = common / len(answer), common / len(gold)
    return 2 * precision * recall / (precision + recall)
