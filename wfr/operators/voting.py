"""Votes over answers that say the same in other words: case, blanks, 2 and 2.0."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_EDGES = " \t\r\n.,;:!\"'`$"


def vote(answers: Sequence[str]) -> int | None:
    """Index of the first answer of the largest group; None where it is alone or tied.

    >>> vote(["2", " 2.0 ", "3"]), vote(["a", "b"]), vote(["a"])
    (0, None, 0)
    """
    keys = [normal(answer) for answer in answers]
    if len(set(keys)) == 1:
        return 0
    ranked = Counter(keys).most_common(2)
    if not ranked or ranked[0][1] < 2 or ranked[0][1] == ranked[1][1]:
        return None
    return keys.index(ranked[0][0])


def normal(answer: str) -> str:
    """What two answers share that say the same.

    >>> normal("Paris."), normal(" paris"), normal("1,000"), normal("1000.00")
    ('paris', 'paris', '1000', '1000')
    """
    text = " ".join(answer.split()).strip(_EDGES).casefold()
    plain = text.replace(",", "")
    if _NUMBER.fullmatch(plain):
        return f"{Decimal(plain).normalize():f}"
    return text
