r"""Mathematical equality of two answers: math-verify, over exact values.

Both sides are read as LaTeX, after what people type instead of it (`pi`, `sqrt(2)`, `*`) is put
into it. No tolerance: 0.3333 is not 1/3, 204 is not 203. Slow or hostile input is the business of
`wfr.grading.maths_process`, which ends it.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from math_verify import parse, verify

from wfr.grading.boxed import last_boxed
from wfr.grading.math_string import clean

LONGEST = 1000
"""Longer answers are cut to their last so many characters: an answer is short, a bomb is not."""


def _symbol(match: re.Match[str]) -> str:
    return "\\pi" if match[1] == "pi" else "\\infty"


_TYPED = (
    (re.compile(r"(?<![\\A-Za-z])(pi|infinity|inf)(?![A-Za-z])"), _symbol),
    (re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\s*\*\*\s*"), "^"),
    (re.compile(r"\s*\*\s*"), r" \\cdot "),
)

logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(answer: str, gold: str) -> bool:
    """True when both sides are the same value, set, interval, tuple or expression."""
    answer, gold = final(answer), final(gold)
    if not answer or not gold:
        return False
    if answer == gold or clean(answer) == clean(gold):
        return True
    return _same(_parse(_as_latex(gold)), _parse(_as_latex(answer)))


def final(text: str) -> str:
    """The answer in a text: its last box, or its end if it is long."""
    boxed = last_boxed(text)
    return (boxed if boxed is not None else text.strip())[-LONGEST:].strip()


def _same(gold: list[Any], answer: list[Any]) -> bool:
    if not gold or not answer:
        return False
    try:
        return bool(verify(gold, answer, timeout_seconds=None))
    except (RecursionError, MemoryError):
        return False


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> list[Any]:
    try:
        return list(parse(text, parsing_timeout=None))
    except (RecursionError, MemoryError):
        return []


def _as_latex(text: str) -> str:
    if "$" in text or "\\boxed" in text:
        return text
    for typed, latex in _TYPED:
        text = typed.sub(latex, text)
    return f"${text}$"
