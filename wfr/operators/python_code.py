"""Find the program in what a model wrote."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"\A```[a-zA-Z]*\n(.*?)\n?```\Z", re.DOTALL)
_FENCE = "```"


def unfenced(code: str) -> str:
    """The program without the code fence around all of it."""
    whole = _WHOLE.match(code)
    return whole[1] if whole else code


def find_program(text: str) -> str:
    r"""The first fenced block of a text, without its fences; else the empty string.

    >>> find_program("So:\n```python\nx = 1\n```\nDone.")
    'x = 1'
    """
    start = text.find(_FENCE)
    if start < 0:
        return ""
    first = text.find("\n", start)
    end = text.find(_FENCE, first) if first >= 0 else -1
    return text[first + 1 : end].rstrip("\n") if end >= 0 else ""
