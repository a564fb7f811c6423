"""Programmer: runs the director's Python as a tool; as a node it writes the program itself."""

from __future__ import annotations

import time
from collections import OrderedDict

from wfr.backends.base import Backend, Inputs, OperatorRequest
from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs, tagged
from wfr.operators.code_runner import NO_OUTPUT, CodeRunner, available, run_metered, shown
from wfr.operators.coded import Coded, Services
from wfr.operators.meter import Meter
from wfr.operators.node_form import instructed
from wfr.operators.node_form import shown as solution
from wfr.operators.prompted import guided
from wfr.operators.python_code import find_program, unfenced
from wfr.operators.reply import MISSING, Reply, UnusableReplyError, ask
from wfr.operators.values import NodeError, NodeInput, NodeOutcome, Value
from wfr.trajectory import OperatorCall

_ATTEMPTS = 3
_MAX_TOKENS = 2048

SPEC = OperatorSpec(
    name="Programmer",
    category="solving",
    description=(
        "Runs Python and returns what it prints, or the value of its last expression. Use it for "
        "arithmetic, dates, counting, comparing and anything else that must be computed exactly."
    ),
    usage="Programmer: PYTHON_CODE",
    as_node=(
        "Writes a Python program for the problem and runs it; repairs it when it fails. Use it for "
        "whatever must be computed exactly, and where a program is asked for."
    ),
)


class Programmer:
    """The Programmer operator.

    A program that passed is not run again: the same text gets the same observation for as long as
    it is kept. So a program that draws random numbers or reads the clock sees its first outcome
    again, which keeps sibling episodes comparable. Failures are never kept.
    """

    spec = SPEC

    def __init__(
        self, sandbox: CodeRunner, backend: Backend | None = None, *, kept_results: int = 4096
    ) -> None:
        """Run programs in `sandbox`, keep the last `kept_results`; `backend` writes for nodes."""
        self._sandbox = sandbox
        self._backend = backend
        self._kept = kept_results
        self._passed: OrderedDict[str, str] = OrderedDict()
        self.parameters = backend.name if backend else ""

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Run a program; raises ArgumentError if there is none, WorldFailureError as `run` does."""
        code = unfenced(read_inputs(self.spec, argument)["content"][0])
        started = time.perf_counter()
        text = self._passed.get(code)
        hit = text is not None
        status = "passed"
        if text is None:
            result = await available(self._sandbox, code)
            status, text = str(result.status), shown(result)
            self._keep(code, status, text)
        call = OperatorCall(
            self.spec.name,
            "sandbox",
            time.perf_counter() - started,
            cache_hit=hit,
            status="ok" if status == "passed" else status,
        )
        return Outcome(text, call)

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Write a program and run it, with its error in front of the next of three attempts."""
        failure = "\n".join(v.feedback for v in inputs.previous if v.passed is False)
        for _ in range(_ATTEMPTS):
            reply = await self._write(_read(inputs, scope, failure), inputs.sample, meter)
            if isinstance(reply, NodeError):
                code = "no_code" if reply.code == MISSING else reply.code
                return NodeOutcome.failed(code, reply.message)
            code = reply["code"]
            status, text = await self._try(code, meter)
            if status == "passed" and scope.entry_point:
                return NodeOutcome(Value(code, code=code, fields={"output": text}))
            if status == "passed" and text != NO_OUTPUT:
                return NodeOutcome(Value(text, code=code))
            failure = text if status != "passed" else "the program printed nothing"
        return NodeOutcome.failed("program_failed", failure)

    async def _write(self, inputs: Inputs, sample: int, meter: Meter) -> Reply | NodeError:
        assert self._backend is not None, "a node needs a backend"
        request = OperatorRequest(
            self.spec.name,
            inputs,
            guided(_prompt(inputs), inputs),
            max_tokens=_MAX_TOKENS,
            sample=sample,
        )
        return await ask(self._backend, request, _read_code, meter)

    async def _try(self, code: str, meter: Meter) -> tuple[str, str]:
        kept = self._passed.get(code)
        if kept is not None:  # counted in full, or an episode would depend on what others ran
            meter.claim()
            meter.record(OperatorCall(self.spec.name, "sandbox", 0.0, cache_hit=True))
            return "passed", kept
        result = await run_metered(self.spec.name, self._sandbox, code, meter)
        self._keep(code, str(result.status), shown(result))
        return str(result.status), shown(result)

    def _keep(self, code: str, status: str, text: str) -> None:
        if status != "passed":
            return
        self._passed[code] = text
        if len(self._passed) > self._kept:
            self._passed.popitem(last=False)


def _read(given: NodeInput, scope: Scope, failure: str) -> Inputs:
    return {
        "problem": (given.problem,),
        "analysis": tuple(solution(value) for value in given.previous),
        "error": (failure,) if failure else (),
        "entry_point": (scope.entry_point,) if scope.entry_point else (),
        "instruction": instructed(given),
    }


def _prompt(inputs: Inputs) -> str:
    parts = [f"Problem:\n{inputs['problem'][0]}"]
    if inputs["analysis"]:
        parts.append("Known so far:\n" + "\n\n".join(inputs["analysis"]))
    if inputs["error"]:
        parts.append(f"An earlier program failed:\n{inputs['error'][0]}")
    if inputs["entry_point"]:
        what = f"defines the function {inputs['entry_point'][0]} and everything that it needs"
    else:
        what = "computes the answer and prints it, and nothing else"
    parts.append(
        f"Write a complete Python program that {what}. Use the standard library only, read no "
        "input. Write the program inside <code>…</code>, without any other text in it."
    )
    return "\n\n".join(parts)


def _read_code(text: str) -> Reply:
    """The program in `<code>`, or else in a code fence."""
    code = unfenced(next(iter(tagged(text, "code")), "")) or find_program(text)
    if not code.strip():
        raise UnusableReplyError("it lacks a program inside <code>…</code>")
    return {"code": code}


def _make(services: Services) -> Programmer:
    return Programmer(services.sandbox, services.backend)


PROGRAMMER = Coded(SPEC, _make)
