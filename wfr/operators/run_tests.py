"""Test: runs the public tests of a programming task; the hidden ones it never sees."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs
from wfr.operators.code_runner import CodeResult, CodeRunner, available, run_metered, shown
from wfr.operators.coded import Coded, Services
from wfr.operators.meter import Meter
from wfr.operators.node_form import needs_solution
from wfr.operators.python_code import find_program, unfenced
from wfr.operators.values import NodeInput, NodeOutcome, Value, merged
from wfr.trajectory import OperatorCall

_SHOWN_FAILURES = 3
_NO_TESTS = "this task has no public tests"

SPEC = OperatorSpec(
    name="Test",
    category="verification",
    description="Runs the public tests of a programming task against a program.",
    usage="Test: PYTHON_CODE",
    is_check=True,
    as_node="Runs the public tests against the program before it: a verdict, and what failed.",
)


class RunTests:
    """The Test operator; it passes the program on as it is."""

    spec = SPEC
    parameters = ""

    def __init__(self, sandbox: CodeRunner) -> None:
        """Run tests in `sandbox`."""
        self._sandbox = sandbox

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Test a program; raises ArgumentError if there is none, WorldFailureError as the rest."""
        code = unfenced(read_inputs(self.spec, argument)["content"][0])
        started = time.perf_counter()
        if not scope.tests:
            return Outcome(
                _NO_TESTS, OperatorCall(self.spec.name, "sandbox", 0.0, status="no_tests")
            )
        result = await available(self._sandbox, code, scope.tests)
        status = "ok" if result.status == "passed" else str(result.status)
        seconds = time.perf_counter() - started
        text = _report(result, scope.tests)
        return Outcome(text, OperatorCall(self.spec.name, "sandbox", seconds, status=status))

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Test the program that the nodes before came to."""
        if (missing := needs_solution(inputs)) is not None:
            return missing
        if not scope.tests:
            return NodeOutcome.failed("no_tests", _NO_TESTS)
        solution = merged(inputs.previous)
        code = _program(solution, scope)
        if not code:
            return NodeOutcome.failed(
                "no_code_to_test",
                "what came before is no single program; let a Programmer write it",
            )
        result = await run_metered(self.spec.name, self._sandbox, code, meter, scope.tests)
        tested = dataclasses.replace(
            solution,
            code=code,
            passed=result.status == "passed",
            feedback=_report(result, scope.tests),
        )
        return NodeOutcome(tested)


def _program(solution: Value, scope: Scope) -> str:
    if solution.code:
        return solution.code
    code = find_program(solution.text) or unfenced(solution.text)
    return code if scope.entry_point and f"def {scope.entry_point}" in code else ""


def _report(result: CodeResult, tests: Sequence[str]) -> str:
    passed = sum(test.status == "passed" for test in result.tests)
    if result.status == "passed":
        return f"all {len(tests)} public tests passed"
    failures = [
        f"{code.strip()}: {test.message or test.status}"
        for code, test in zip(tests, result.tests, strict=False)
        if test.status != "passed"
    ]
    lines = failures[:_SHOWN_FAILURES] or [shown(result)]
    return "\n".join([f"{passed} of {len(tests)} public tests passed", *lines])


def _make(services: Services) -> RunTests:
    return RunTests(services.sandbox)


TEST = Coded(SPEC, _make)
