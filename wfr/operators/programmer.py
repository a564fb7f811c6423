"""Programmer: runs the director's Python in the sandbox and shows what it printed."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import Protocol

from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs
from wfr.trajectory import OperatorCall, StopReason, WorldFailureError

_FENCE = re.compile(r"\A```[a-zA-Z]*\n(.*?)\n?```\Z", re.DOTALL)
_LIMITS = {
    "timeout": "error: the time limit was reached",
    "memory": "error: the memory limit was reached",
    "output_limit": "error: too much output",
    "killed": "error: the process was killed",
}

SPEC = OperatorSpec(
    name="Programmer",
    category="solving",
    description=(
        "Runs Python and returns what it prints, or the value of its last expression. Use it for "
        "arithmetic, dates, counting, comparing and anything else that must be computed exactly."
    ),
    usage="Programmer: PYTHON_CODE",
)


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


class CodeRunner(Protocol):
    """Where code that a model wrote runs."""

    async def run(self, code: str, *, stdin: str = "") -> CodeResult:
        """Run one program to its end or to a limit."""
        ...


class Programmer:
    """The Programmer operator.

    A program that passed is not run again: the same text gets the same observation for as long as
    it is kept. So a program that draws random numbers or reads the clock sees its first outcome
    again, which keeps sibling episodes comparable. Failures are never kept.
    """

    spec = SPEC

    def __init__(self, sandbox: CodeRunner, kept_results: int = 4096) -> None:
        """Run programs in `sandbox`; keep the last `kept_results` that passed."""
        self._sandbox = sandbox
        self._kept = kept_results
        self._passed: OrderedDict[str, str] = OrderedDict()

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Run a program; raises ArgumentError if there is none, WorldFailureError as `run` does."""
        code = _unfenced(read_inputs(self.spec, argument)["content"][0])
        started = time.perf_counter()
        text = self._passed.get(code)
        hit = text is not None
        status = "passed"
        if text is None:
            status, text = await self._run(code)
        call = OperatorCall(
            self.spec.name,
            "sandbox",
            time.perf_counter() - started,
            cache_hit=hit,
            status="ok" if status == "passed" else status,
        )
        return Outcome(text, call)

    async def _run(self, code: str) -> tuple[str, str]:
        result = await self._sandbox.run(code)
        if result.status == "unavailable":
            raise WorldFailureError(StopReason.SANDBOX_UNAVAILABLE, result.stderr.strip())
        text = _shown(result)
        if result.status == "passed":
            self._passed[code] = text
            if len(self._passed) > self._kept:
                self._passed.popitem(last=False)
        return str(result.status), text


def _shown(result: CodeResult) -> str:
    if result.status == "passed":
        return result.stdout.strip() or result.value or "(no output)"
    if result.status == "error":
        lines = result.stderr.strip().splitlines()
        return f"error: {lines[-1].strip()}" if lines else "error"
    return _LIMITS[str(result.status)]


def _unfenced(code: str) -> str:
    fenced = _FENCE.match(code)
    return fenced[1] if fenced else code
