"""A client's text cannot pose as anything but text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from wfr.environments import canvas_feedback, observations


class Neutral:
    """Disarms control tags of the environments and special tokens of a tokenizer."""

    def __init__(self, special_tokens: Iterable[str]) -> None:
        """`special_tokens` are the texts that the tokenizer would encode as one control token."""
        tokens = sorted((t for t in special_tokens if t.strip()), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def __call__(self, text: str) -> str:
        """The text with the first character of each such tag or token escaped."""
        text = canvas_feedback.disarm(observations.disarm(text))
        if self._special is None:
            return text
        return self._special.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    token = match[0]
    return ("&lt;" if token[0] == "<" else f"{token[0]}\u200b") + token[1:]
