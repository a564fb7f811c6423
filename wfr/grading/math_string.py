r"""MATH's own rule: two answers are equal if their cleaned LaTeX strings are.

The clean-up of the benchmark's evaluation, restated: fractions and roots get their braces, units,
dollar signs, degrees, percent signs, `\left`, `\right` and spaces go, `.5` becomes `0.5`, `a/b` of
integers becomes a fraction, and `x = ` before an answer is dropped.
"""

from __future__ import annotations

import re

_FRACTION = re.compile(r"\\frac\s*(?:{([^{}]*)}|(\S))\s*(?:{([^{}]*)}|(\S))")
_ROOT = re.compile(r"\\sqrt(?!\s*[{\[])\s*(\S)")
_SLASH = re.compile(r"(-?\d+)/(-?\d+)")
_LEADING_POINT = re.compile(r"(?<!\d)\.(\d)")
_DROP = ("\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "$", "\\%", "%", "\n")
_LONGEST = 2000


def clean(text: str) -> str:
    """An answer's cleaned string."""
    text = text[:_LONGEST].strip().rstrip(".")
    for word in _DROP:
        text = text.replace(word, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    text = text.split("\\text{ ")[0]  # units stand at the right
    head, equals, tail = text.partition("=")
    if equals and len(head.strip()) <= 2 and "=" not in tail:
        text = tail
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = _FRACTION.sub(lambda m: f"\\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = _LEADING_POINT.sub(r"0.\1", text)
    text = text.replace(" ", "")
    slash = _SLASH.fullmatch(text)
    return f"\\frac{{{slash[1]}}}{{{slash[2]}}}" if slash else text


def equal(answer: str, gold: str) -> bool:
    """String equality after `clean`."""
    return clean(answer) == clean(gold)
