"""The workflow interpreter: its own time per node, what an edit runs again, many canvases at once.

Overhead: a workflow of instant operators, executed, against the same operators awaited one after
the other. Concurrency: canvases that each execute twelve operators of the library over a backend
that takes 200 ms per call, in one process, against one such canvas alone (the critical path).
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.harness import Result, at_most, figure, interleave, ratio
from wfr.backends.base import Completion, OperatorRequest
from wfr.operators.base import NodeOperator, OperatorSpec, Scope
from wfr.operators.library import PROMPTED
from wfr.operators.meter import Meter
from wfr.operators.prompted import PromptedOperator
from wfr.operators.values import NodeInput, NodeOutcome, Value
from wfr.workflow.dsl import parse
from wfr.workflow.edits import Applied, SetPrompt, apply
from wfr.workflow.graph import Workflow
from wfr.workflow.interpreter import Execution, Interpreter
from wfr.workflow.memory import Memory
from wfr.workflow.rules import Rules

_SCOPE = Scope("task")
_PROBLEM = "A train takes 3 hours for 240 km. How fast is it on average?"
_TWELVE = (
    "Plan -> [Custom, AnswerGenerate, AnswerGenerate, Custom -> Revise] -> Aggregate"
    " -> Verify ? done : Revise -> Custom -> Review -> Format"
)
_LATENCY_S = 0.2
_REPLY = "".join(
    f"<{tag}>{text}</{tag}>"
    for tag, text in {
        "plan": "1. divide\n2. check",
        "think": "240 km in 3 hours are 80 km in one hour",
        "answer": "80 km/h",
        "is_correct": "true",
        "review_result": "true",
        "feedback": "right",
    }.items()
)


class _Instant:
    """An operator that costs nothing: what is left is the interpreter."""

    parameters = ""

    def __init__(self, spec: OperatorSpec) -> None:
        self.spec = spec

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        passed = True if self.spec.is_check else None
        read = " ".join(value.digest for value in inputs.previous)  # a change goes all the way
        return NodeOutcome(Value(f"{self.spec.name} {inputs.instruction} {read}", passed=passed))


class _Slow:
    """A backend with a fixed latency."""

    name = "slow"

    async def complete(self, request: OperatorRequest) -> Completion:
        await asyncio.sleep(_LATENCY_S)
        return Completion(_REPLY, 100, 20, _LATENCY_S)


def run(quick: bool) -> Result:
    """Measure; `quick`: fewer executions and canvases."""
    executions, canvases, repeats = (20, 50, 2) if quick else (200, 1000, 5)
    workflow = parse(_TWELVE)
    instant = {name: _Instant(d.spec) for name, d in PROMPTED.items()}
    nodes = asyncio.run(_execute(instant, workflow, Memory())).executed
    overhead = interleave(
        {
            "interpreted": lambda: asyncio.run(_interpreted(instant, workflow, executions)),
            "awaited": lambda: asyncio.run(_awaited(instant, workflow, executions)),
        },
        repeats=repeats,
        warmup=1,
    )
    many = interleave(
        {
            "all": lambda: asyncio.run(_canvases(canvases)),
            "one": lambda: asyncio.run(_canvases(1)),
        },
        repeats=repeats,
        warmup=1,
    )
    pairs = zip(overhead["interpreted"], overhead["awaited"], strict=True)
    own = [(a - b) / executions / nodes * 1e3 for a, b in pairs]
    again = asyncio.run(_edits(instant, workflow))
    return Result(
        [
            figure("interpreter, own time per node", own, "ms", at_most(0.2)),
            figure("operator runs after an edit ÷ its descendants", again, "×", at_most(1)),
            ratio(f"{canvases} canvases ÷ one, wall time", many["all"], many["one"], at_most(1.5)),
        ],
        setup={
            "workflow": _TWELVE,
            "executed nodes": nodes,
            "executions per repeat": executions,
            "canvases": canvases,
            "latency_s": _LATENCY_S,
            "critical path_s": min(many["one"]),
        },
    )


async def _execute(operators: dict[str, _Instant], workflow: Workflow, memory: Memory) -> Execution:
    return await Interpreter(operators).run(workflow, _PROBLEM, _SCOPE, memory=memory)


async def _interpreted(operators: dict[str, _Instant], workflow: Workflow, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        await _execute(operators, workflow, Memory())
    return time.perf_counter() - started


async def _awaited(operators: dict[str, _Instant], workflow: Workflow, times: int) -> float:
    meter = Meter()
    ran = (await _execute(operators, workflow, Memory())).nodes
    names = [node.operator for node in workflow.operators if node.id in ran]
    started = time.perf_counter()
    for _ in range(times):
        for name in names:
            await operators[name].run(NodeInput(_PROBLEM), _SCOPE, meter)
    return time.perf_counter() - started


async def _edits(operators: dict[str, _Instant], workflow: Workflow) -> list[float]:
    """For each node: runs after a change of its prompt, divided by the nodes it can reach."""
    rules = Rules({name: operator.spec for name, operator in operators.items()})
    ratios = []
    for node in workflow.operators:
        memory = Memory()
        ran = (await _execute(operators, workflow, memory)).nodes
        if node.id not in ran:
            continue
        edited = apply(workflow, SetPrompt(node.id, "now in other words"), rules)
        assert isinstance(edited, Applied), edited
        execution = await _execute(operators, edited.workflow, memory)
        ratios.append(execution.executed / len(_reached(edited.workflow, node.id) & set(ran)))
    return ratios


def _reached(workflow: Workflow, start: str) -> set[str]:
    found = {start}
    for _ in workflow.operators:
        found |= {reader for source, reader in workflow.edges() if source in found}
    return found


async def _canvases(count: int) -> float:
    operators: dict[str, NodeOperator] = {
        name: PromptedOperator(declaration, _Slow()) for name, declaration in PROMPTED.items()
    }
    interpreter = Interpreter(operators)
    workflow = parse(_TWELVE)
    started = time.perf_counter()
    executions = await asyncio.gather(
        *(
            interpreter.run(workflow, f"{_PROBLEM} ({number})", _SCOPE, memory=Memory())
            for number in range(count)
        )
    )
    seconds = time.perf_counter() - started
    assert all(execution.answer == "80 km/h" for execution in executions)
    return seconds
