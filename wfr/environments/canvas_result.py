"""What the last execution of a workflow left behind, as far as feedback and reward need it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True, slots=True)
class CanvasResult:
    """Plain data, so that an episode can be stored and continued.

    Attributes:
        answer: text of the output; empty where there is none.
        program: code of the output, for tasks that hidden tests grade.
        partial: the last good value before an error, for the feedback only.
        passed: verdict of the last check, or None where nothing was checked.
        verdict: what that check said.
    """

    answer: str = ""
    program: str = ""
    partial: str = ""
    error: str = ""
    message: str = ""
    passed: bool | None = None
    verdict: str = ""
    executed: int = 0
    reused: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**data)
