"""Grading: from a task and an answer to a verdict by the task's own metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from wfr.grading import gsm8k, qa


@dataclasses.dataclass(frozen=True, slots=True)
class Grade:
    """`correct` is 0 or 1 by the official metric; `metrics` are reported beside it."""

    correct: float
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Gradable(Protocol):
    """What grading reads of a task."""

    @property
    def id(self) -> str:
        """For error messages."""
        ...

    @property
    def answers(self) -> tuple[str, ...]:
        """Every accepted answer."""
        ...

    @property
    def metric(self) -> str:
        """Name of the grader."""
        ...


def grade(task: Gradable, answer: str) -> Grade:
    """Grade an answer; raises ValueError for a metric that nobody knows."""
    grader = _GRADERS.get(task.metric)
    if grader is None:
        raise ValueError(
            f"task {task.id!r} asks for the metric {task.metric!r}; known: {', '.join(_GRADERS)}"
        )
    return grader(task, answer)


def _qa_em(task: Gradable, answer: str) -> Grade:
    correct = float(qa.exact_match(answer, task.answers))
    return Grade(correct, {"f1": max((qa.answer_f1(answer, g) for g in task.answers), default=0.0)})


def _gsm8k(task: Gradable, answer: str) -> Grade:
    return Grade(float(any(gsm8k.correct(answer, gold) for gold in task.answers)))


_GRADERS: Mapping[str, Callable[[Gradable, str], Grade]] = {"qa_em": _qa_em, "gsm8k": _gsm8k}
