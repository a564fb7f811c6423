"""One question about fitness, and its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What was asked, whether it is well, what was found, and what to do where it is not.

    `key` is the configuration's, where one is to blame.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    key: str = ""


def explain(results: Sequence[Check], place: Callable[[str], str] = lambda _: "") -> str:
    """All failing checks with their remedies, one paragraph each; empty where none fails.

    `place` says where a key stands.
    """
    return "\n".join(
        f"{check.name}: {check.detail}{place(check.key)}\n    remedy: {check.remedy}"
        for check in results
        if not check.ok
    )
