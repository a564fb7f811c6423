"""Multiple choice (MathQA): the letter of the chosen option."""

from __future__ import annotations

import re

_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*[).:]?\s*\Z")
_SAID = re.compile(
    r"(?:answer|option|choice)\s*(?:is|:)?\s*:?\s*(?:option|choice)?\s*\(?([A-Za-z])\)?(?![A-Za-z])",
    re.IGNORECASE,
)
_LONGEST = 2000


def letter(text: str) -> str | None:
    """The letter that an answer names, lower-cased: `B`, `(b)`, `b)`, `the answer is B`."""
    text = text.strip()[-_LONGEST:]
    alone = _LETTER.match(text)
    if alone:
        return alone[1].lower()
    said = _SAID.findall(text)
    return said[-1].lower() if said else None


def correct(answer: str, gold: str, options: dict[str, str]) -> bool:
    """Whether the answer names the gold letter, or repeats the gold option's text and no other.

    Args:
        answer: what was answered.
        gold: the letter.
        options: text by letter; may be empty.
    """
    named = letter(answer)
    if named is not None and (named in options or not options):
        return named == gold.lower()
    same = [key for key, text in options.items() if _plain(text) == _plain(answer)]
    return same == [gold.lower()]


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
