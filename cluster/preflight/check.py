"""One question about fitness, and its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What was asked, whether it is well, what was found, and what to do where it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def explain(results: Sequence[Check]) -> str:
    """All failing checks with their remedies, one paragraph each; empty where none fails."""
    return "\n".join(
        f"{check.name}: {check.detail}\n    remedy: {check.remedy}"
        for check in results
        if not check.ok
    )
