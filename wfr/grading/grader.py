"""The grader: a verdict by the task's own metric, in training and after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from wfr.grading import math_string
from wfr.grading.base import Gradable, Grade
from wfr.grading.ds1000 import ds1000
from wfr.grading.programs import Runner, hidden_tests, stdin_tests
from wfr.grading.texts import TEXT_METRICS


class MathsComparer(Protocol):
    """What compares mathematical answers: `wfr.grading.maths_process.MathsProcess`."""

    async def equal(self, answer: str, gold: str) -> bool:
        """Whether both are the same value."""
        ...


class Grader:
    """Grades any task; verdicts that cost something are kept."""

    def __init__(self, runner: Runner, maths: MathsComparer, kept_verdicts: int = 4096) -> None:
        """Run programs with `runner`, compare maths with `maths`."""
        self._runner = runner
        self._maths = maths
        self._kept = kept_verdicts
        self._verdicts: OrderedDict[tuple[str, str], Grade] = OrderedDict()
        self._slow: Mapping[str, Callable[[Gradable, str], Awaitable[Grade]]] = {
            "math": self._math,
            "hidden_tests": lambda task, answer: hidden_tests(self._runner, task, answer),
            "stdin_tests": lambda task, answer: stdin_tests(self._runner, task, answer),
            "ds1000": lambda task, answer: ds1000(self._runner, task, answer),
        }

    async def grade(self, task: Gradable, answer: str) -> Grade:
        """The verdict on an answer; a blank one is wrong, but where no answer is the right one.

        Raises:
            ValueError: a metric that nobody knows.
            WorldFailureError: a program cannot be run here.
        """
        if task.metric in TEXT_METRICS:
            return TEXT_METRICS[task.metric](task, answer)
        if task.metric not in self._slow:
            raise ValueError(
                f"task {task.id!r} asks for the metric {task.metric!r}; known: "
                f"{', '.join(known_metrics())}"
            )
        if not answer.strip():
            return Grade(0.0)
        key = (task.id, answer)
        if key not in self._verdicts:
            self._verdicts[key] = await self._slow[task.metric](task, answer)
            if len(self._verdicts) > self._kept:
                self._verdicts.popitem(last=False)
        return self._verdicts[key]

    async def _math(self, task: Gradable, answer: str) -> Grade:
        same = [gold for gold in task.answers if await self._maths.equal(answer, gold)]
        exact = any(math_string.equal(answer, gold) for gold in task.answers)
        return Grade(float(bool(same)), {"string": float(exact)})


def known_metrics() -> list[str]:
    """Names of all metrics."""
    return sorted([*TEXT_METRICS, "math", "hidden_tests", "stdin_tests", "ds1000"])
