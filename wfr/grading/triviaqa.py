"""TriviaQA: punctuation becomes a space instead of nothing, and so does an underscore."""

from __future__ import annotations

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def normalise_spaced(text: str) -> str:
    """Lower-case, blank out punctuation (ASCII, `_`, ‘ ’ ´ `) and articles, collapse space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACES)).split())
