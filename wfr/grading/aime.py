"""AIME: integers from 0 to 999, compared as integers."""

from __future__ import annotations

import re

from wfr.grading.boxed import last_boxed

_INTEGER = re.compile(r"\$?\s*0*(\d{1,3})\s*(?:\.0*)?\$?\.?")


def integer(text: str) -> int | None:
    r"""The integer that an answer is, perhaps in its last `\boxed{}`; None where it is none."""
    boxed = last_boxed(text)
    match = _INTEGER.fullmatch((boxed if boxed is not None else text).strip())
    return int(match[1]) if match else None


def correct(answer: str, gold: str) -> bool:
    """Equality of integers; an answer that is no integer from 0 to 999 is wrong."""
    mine = integer(answer)
    return mine is not None and mine == integer(gold)
