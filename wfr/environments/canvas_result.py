"""What the last execution of a workflow left behind, as far as feedback and reward need it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from wfr.workflow.interpreter import Execution


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
    def of(cls, execution: Execution, order: Sequence[str]) -> Self:
        """Read an execution; `order` has the ids of the operators as the workflow has them."""
        checked = [execution.nodes[i].value for i in order if i in execution.nodes]
        verdicts = [value for value in checked if value is not None and value.passed is not None]
        last = verdicts[-1] if verdicts else None
        error = execution.error
        return cls(
            answer=execution.answer,
            program=execution.code,
            partial=execution.partial.text if execution.partial else "",
            error=error.code if error else "",
            message=error.message if error else "",
            passed=last.passed if last else None,
            verdict=last.feedback if last else "",
            executed=execution.executed,
            reused=execution.reused,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**data)
