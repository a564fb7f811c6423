"""What differs between two texts, word by word."""

from __future__ import annotations

import difflib
import re

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_MOST_WORDS = 4000

Piece = tuple[str, str]
"""`same`, `removed` or `added`, and the text."""


def difference(old: str, new: str) -> list[Piece]:
    """Pieces from which both texts can be put together again.

    Texts of more than 4000 words are compared by lines, which takes less time.
    """
    left, right = _WORD.findall(old), _WORD.findall(new)
    if len(left) + len(right) > _MOST_WORDS:
        left, right = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if len(left) + len(right) > _MOST_WORDS:
        return [piece for piece in (("removed", old), ("added", new)) if piece[1]]
    pieces: list[Piece] = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(left[a:b])))
            continue
        if a < b:
            pieces.append(("removed", "".join(left[a:b])))
        if c < d:
            pieces.append(("added", "".join(right[c:d])))
    return pieces
