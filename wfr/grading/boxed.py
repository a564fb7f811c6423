r"""The last `\boxed{...}` of a solution."""

from __future__ import annotations

_MARKS = ("\\boxed", "\\fbox")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{}` or `\fbox{}` with balanced braces; None without one.

    `\boxed 5` counts too: then it is the rest up to a dollar sign.
    """
    start = max(text.rfind(mark) for mark in _MARKS)
    if start < 0:
        return None
    rest = text[start:].split("boxed", 1)[-1].split("\\fbox", 1)[-1]
    if not rest.startswith("{"):
        return rest.split("$")[0].strip() or None
    depth = 0
    for index, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:index].strip()
    return None
