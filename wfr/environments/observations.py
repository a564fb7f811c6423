"""Observations: what of a text the director is shown, and that it cannot pose as anything else."""

from __future__ import annotations

import re
from collections.abc import Collection

from wfr.trajectory import Message

# Our own tags, and chat-template tokens such as <|im_end|>, which a tokenizer would obey.
_CONTROL = re.compile(r"<(?=/?(?:think|tool_response|tool|answer|info)>|\|\w+\|>)")
_CUT = "\n...(middle left out)...\n"

WARNING = (
    "WARNING: that did not follow the required format. Think first, then take exactly one action, "
    "either <think>…</think><tool>OperatorName: input</tool> or "
    "<think>…</think><answer>short answer</answer>."
)
BRIEF_WARNING = "warning format"


def info(text: str, limit: int) -> Message:
    """The message for an operator's text: cut to `limit` characters, its control tags disarmed."""
    return Message("tool", f"<info>{cut_middle(disarm(text), limit)}</info>")


def warning(*, brief: bool) -> Message:
    """The message for a malformed turn; it is ours, so its tags stay as they are."""
    return Message("tool", f"<info>{BRIEF_WARNING if brief else WARNING}</info>")


def unknown_operator(name: str, pool: Collection[str], *, brief: bool) -> str:
    """The text for a call of something outside the pool; names nothing outside the pool."""
    if brief:
        return "unknown operator"
    return f"There is no operator {name[:40]!r}. Available operators: {', '.join(pool)}."


def disarm(text: str) -> str:
    """Write the `<` of control tags as `&lt;`; every other tag stays as it is."""
    return _CONTROL.sub("&lt;", text)


def cut_middle(text: str, limit: int) -> str:
    """Keep the first and the last `limit` / 2 characters around a marker."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[: limit - half] + _CUT + text[len(text) - half :]
