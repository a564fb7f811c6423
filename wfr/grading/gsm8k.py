"""GSM8K grading: the official string rule of the grade-school-math evaluation.

Official: the text after the first `#### ` that consists of an optional minus, digits, `.` and `,`;
commas are removed and the *strings* are compared, so `5.` is not `5` and `18.00` is not `18`.
Ours: a director's answer stands in `<answer>`, so where it has no `#### ` mark of its own it is
read as if the mark preceded it; `$18` is therefore wrong, as it is officially after the mark.
"""

from __future__ import annotations

import re

_MARK = "#### "
_FINAL = re.compile(r"#### (-?[0-9.,]+)")


def final_number(text: str) -> str | None:
    """The number after the first `#### `, commas removed; none where there is no such number."""
    match = _FINAL.search(text)
    return match[1].replace(",", "") if match else None


def correct(answer: str, gold: str) -> bool:
    """Compare an answer with a gold number as `final_number` returns it."""
    marked = answer if _MARK in answer else _MARK + answer.strip()
    return final_number(marked) == gold
