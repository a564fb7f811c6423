"""Server-sent events: what is told while a workflow grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["workflow", "token", "turn", "observation", "graph", "result", "error"]


def encode(kind: Kind, data: Mapping[str, Any]) -> bytes:
    r"""One event: the name, and one line of JSON, in which no newline is left to forge another.

    >>> encode("token", {"turn": 0, "text": "a\nb"})
    b'event: token\ndata: {"turn":0,"text":"a\\nb"}\n\n'
    """
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {line}\n\n".encode()


PING = b": ping\n\n"
"""A comment, which keeps connections alive and says when one is not."""
