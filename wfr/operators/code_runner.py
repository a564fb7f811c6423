"""Where operators run programs that a model wrote."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from wfr.operators.meter import Meter
from wfr.trajectory import OperatorCall, StopReason, WorldFailureError

_LIMITS = {
    "timeout": "error: the time limit was reached",
    "memory": "error: the memory limit was reached",
    "output_limit": "error: too much output",
    "killed": "error: the process was killed",
}


class TestResult(Protocol):
    """What became of one test."""

    @property
    def status(self) -> str:
        """`passed`, or how it did not."""
        ...

    @property
    def message(self) -> str:
        """Why it did not pass."""
        ...


class CodeResult(Protocol):
    """How a program ended."""

    @property
    def status(self) -> str:
        """One of the sandbox's status words."""
        ...

    @property
    def stdout(self) -> str:
        """What it printed."""
        ...

    @property
    def stderr(self) -> str:
        """What it complained about."""
        ...

    @property
    def value(self) -> str | None:
        """The repr of its last expression, if there is one."""
        ...

    @property
    def tests(self) -> Sequence[TestResult]:
        """One for each test, as far as the program came."""
        ...


class CodeRunner(Protocol):
    """Where code that a model wrote runs."""

    async def run(self, code: str, *, stdin: str = "", tests: Sequence[str] = ()) -> CodeResult:
        """Run one program to its end or to a limit, then tests of what it defines."""
        ...


async def run_metered(
    operator: str, sandbox: CodeRunner, code: str, meter: Meter, tests: Sequence[str] = ()
) -> CodeResult:
    """Run a program as a call that the meter counts.

    Raises:
        BudgetSpentError: as the meter does.
        WorldFailureError: there is no sandbox.
    """
    meter.claim()
    started = time.perf_counter()
    result = await available(sandbox, code, tests)
    status = "ok" if result.status == "passed" else str(result.status)
    meter.record(OperatorCall(operator, "sandbox", time.perf_counter() - started, status=status))
    return result


async def available(sandbox: CodeRunner, code: str, tests: Sequence[str] = ()) -> CodeResult:
    """The result of a run; raises WorldFailureError where there is no sandbox."""
    result = await sandbox.run(code, tests=tests)
    if result.status == "unavailable":
        raise WorldFailureError(StopReason.SANDBOX_UNAVAILABLE, result.stderr.strip())
    return result


def shown(result: CodeResult) -> str:
    """What the director sees of a run: the output, or the last line of the error."""
    return _cut(_said(result))


def _said(result: CodeResult) -> str:
    if result.status == "passed":
        return result.stdout.strip() or result.value or NO_OUTPUT
    if result.status in _LIMITS:
        return _LIMITS[str(result.status)]
    lines = result.stderr.strip().splitlines()
    return f"error: {lines[-1].strip()}" if lines else "error"


def _cut(text: str) -> str:
    """A program may print a megabyte, which no prompt and no cache has room for."""
    if len(text) <= _MOST_CHARS:
        return text
    half = _MOST_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


NO_OUTPUT = "(no output)"
_MOST_CHARS = 20_000
