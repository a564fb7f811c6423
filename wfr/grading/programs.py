"""Metrics that run a program: hidden tests, standard input and output, and pass@k."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from wfr.grading.base import Gradable, Grade
from wfr.sandbox import Result, Status
from wfr.trajectory import StopReason, WorldFailureError

_TOLERANCE = 1e-6


class Runner(Protocol):
    """Where programs run."""

    async def run(self, code: str, *, stdin: str = "", tests: Sequence[str] = ()) -> Result:
        """Run one program, then its tests, to their end or to a limit."""
        ...


async def hidden_tests(runner: Runner, task: Gradable, program: str) -> Grade:
    """Whether a program passes all tests; `tests_passed` is the share.

    Raises:
        WorldFailureError: there is no sandbox, or a test cannot be run by anybody.
    """
    result = await runner.run(program, tests=task.tests)
    check_world(task, result)
    passed = sum(outcome.status == "passed" for outcome in result.tests)
    return Grade(
        float(result.status == Status.PASSED), {"tests_passed": passed / max(1, len(task.tests))}
    )


async def stdin_tests(runner: Runner, task: Gradable, program: str) -> Grade:
    """Whether a program prints what each test wants of its input (APPS); stops at the first miss.

    Raises:
        WorldFailureError: there is no sandbox.
    """
    passed = 0
    for text in task.tests:
        test = json.loads(text)
        result = await runner.run(program, stdin=test["stdin"])
        check_world(task, result)
        if result.status != Status.PASSED or not same_output(result.stdout, test["stdout"]):
            break
        passed += 1
    share = passed / max(1, len(task.tests))
    return Grade(float(share == 1.0), {"tests_passed": share})


def same_output(printed: str, wanted: str) -> bool:
    """Equality line by line, white space stripped, then token by token with numbers as numbers."""
    mine, theirs = list(_lines(printed)), list(_lines(wanted))
    if mine == theirs:
        return True
    if len(mine) != len(theirs):
        return False
    return all(_same_line(left, right) for left, right in zip(mine, theirs, strict=True))


def _lines(text: str) -> Iterator[str]:
    for line in text.strip().splitlines():
        if line.strip():
            yield line.strip()


def _same_line(left: str, right: str) -> bool:
    mine, theirs = left.split(), right.split()
    return len(mine) == len(theirs) and all(
        a == b or _same_number(a, b) for a, b in zip(mine, theirs, strict=True)
    )


def _same_number(left: str, right: str) -> bool:
    """Where one of them is written as a fraction; integers are equal as texts or not at all."""
    if "." not in left + right and "e" not in (left + right).lower():
        return False
    try:
        return math.isclose(float(left), float(right), rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    except ValueError:
        return False


def check_world(task: Gradable, result: Result) -> None:
    """Raise WorldFailureError where a program could not be run by anybody."""
    if result.status != Status.UNAVAILABLE:
        return
    unsupported = [o.message for o in result.tests if o.status == "unsupported"]
    why = f"a test of task {task.id!r} cannot be run: {unsupported[0]}" if unsupported else ""
    raise WorldFailureError(StopReason.SANDBOX_UNAVAILABLE, why or result.stderr.strip())


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right (arXiv 2107.03374, eq. 1).

    1 − C(n − c, k) / C(n, k) for n samples of which c are right.

    Raises:
        ValueError: fewer samples than k, or an impossible count.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {correct} of them right: impossible")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
