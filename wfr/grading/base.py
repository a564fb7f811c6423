"""What a verdict is, and what grading reads of a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """`correct` is 0 or 1 by the official metric; `metrics` are reported beside it."""

    correct: float
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


class AnswerGrader(Protocol):
    """What grades answers."""

    async def grade(self, task: Gradable, answer: str) -> Grade:
        """The verdict; raises ValueError (unknown metric) or WorldFailureError (cannot be run)."""
        ...


class Gradable(Protocol):
    """What grading reads of a task."""

    @property
    def id(self) -> str:
        """For error messages."""
        ...

    @property
    def source(self) -> str:
        """Where it came from; who pays for a judge."""
        ...

    @property
    def question(self) -> str:
        """What was asked."""
        ...

    @property
    def answers(self) -> Sequence[str]:
        """Every accepted answer."""
        ...

    @property
    def metric(self) -> str:
        """Name of the grader."""
        ...

    @property
    def tests(self) -> Sequence[str]:
        """Tests of a program."""
        ...

    @property
    def meta(self) -> Mapping[str, str]:
        """What only some metrics read: the options of a multiple choice."""
        ...
