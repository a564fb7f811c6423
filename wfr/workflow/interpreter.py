"""Execute a workflow: branches at once, results reused by content, failures as values.

A node runs as soon as what it reads is there. Its result is kept under a hash of the operator and
its parameters, the prompt, the problem, the inputs and the number of equal nodes before it; so
after an edit only what the edit changed runs again. Failures are not kept. What the world does
wrong is raised as it is, after everything else has been stopped.

How values flow:

* The first nodes read the problem alone. Every other node reads the problem and the output of the
  node before it, or those of the nodes that it names. What was named and did not run is left out.
* Every branch of a parallel structure reads the same; what follows reads the outputs of all
  branches that did not fail.
* A check passes on what it checked, with its verdict. An arm reads that; so does what follows an
  empty arm. A condition that fails (no verdict) fails the conditional: neither arm runs.
* Each iteration of a loop reads the output of the one before; the loop ends early where its exit
  condition passes, and its output is that of the last iteration.
* A solver that reads a decomposition runs once per sub-problem. Parallel solvers share the
  sub-problems between them.
* A node whose inputs all failed is skipped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import TypeAlias

from wfr.operators.base import NodeOperator, Scope
from wfr.operators.meter import Budget, BudgetSpentError, Meter, Spent
from wfr.operators.together import stop, together
from wfr.operators.values import (
    NodeError,
    NodeInput,
    NodeOutcome,
    Value,
    ValueKind,
    digest,
    merged,
)
from wfr.trajectory import OperatorCall
from wfr.workflow.flow import ROOT, Order, block_key
from wfr.workflow.graph import Workflow
from wfr.workflow.memory import Memory
from wfr.workflow.nodes import Block, Conditional, Loop, Node, OperatorNode, Parallel

# Samples of different twins and iterations differ; neither depends on what else the workflow holds.
_MAX_TWINS = 1000
_MAX_COUNT = 1000

UPSTREAM = "upstream_failed"
NO_VERDICT = "no_verdict"

Output: TypeAlias = tuple[Value, ...] | NodeError
"""What leaves a node: values, or the reason why there is none."""


@dataclasses.dataclass(slots=True)
class NodeResult:
    """What became of a node.

    Attributes:
        status: `ok`, `error`, or `skipped` where its inputs failed.
        runs: times that the operator was carried out; in a loop or for sub-problems several.
        reused: times that an earlier result was taken instead.
        seconds: summed over the runs.
    """

    id: str
    operator: str
    status: str = "skipped"
    value: Value | None = None
    error: NodeError | None = None
    runs: int = 0
    reused: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Execution:
    """What an execution left.

    Attributes:
        output: what leaves the workflow; None where that failed.
        partial: the last value, in document order, that there is; for feedback only.
        nodes: what became of each node that was reached, by id.
        error: the first failure in document order; there may be an output nevertheless.
        executed: operator runs, `reused`: earlier results taken instead.
        spent: of this execution.
    """

    output: Value | None
    partial: Value | None
    nodes: Mapping[str, NodeResult]
    error: NodeError | None
    calls: tuple[OperatorCall, ...]
    spent: Spent

    @property
    def executed(self) -> int:
        """Operator runs."""
        return sum(result.runs for result in self.nodes.values())

    @property
    def reused(self) -> int:
        """Results that were taken from an earlier execution."""
        return sum(result.reused for result in self.nodes.values())

    @property
    def answer(self) -> str:
        """Text of the output, or the empty string."""
        return self.output.text if self.output else ""

    @property
    def code(self) -> str:
        """Program of the output, or the empty string."""
        return self.output.code if self.output else ""


class Interpreter:
    """Executes workflows over one set of operators; holds nothing of any episode."""

    def __init__(
        self, operators: Mapping[str, NodeOperator], *, legacy_inverted: bool = False
    ) -> None:
        """`legacy_inverted`: the true arm runs on failure, as in FlowSteer's released code."""
        self._operators = operators
        self._inverted = legacy_inverted

    async def run(
        self,
        workflow: Workflow,
        problem: str,
        scope: Scope,
        *,
        memory: Memory | None = None,
        budget: Budget | None = None,
    ) -> Execution:
        """Execute a workflow whose operators are all there.

        Args:
            workflow: what to execute.
            problem: the task in words.
            scope: what else operators may know of it.
            memory: results and spending of the episode so far; gets those of this execution.
            budget: of the whole episode.

        Raises:
            WorldFailureError: an operator could not be carried out; nothing runs on.
        """
        memory = memory or Memory()
        run = _Run(self._operators, self._inverted, workflow, problem, scope, memory)
        return await run.execute(budget or Budget())


class _Run:
    """One execution."""

    def __init__(
        self,
        operators: Mapping[str, NodeOperator],
        inverted: bool,
        workflow: Workflow,
        problem: str,
        scope: Scope,
        memory: Memory,
    ) -> None:
        self._operators = operators
        self._inverted = inverted
        self._workflow = workflow
        self._order = workflow.flow.order
        self._problem = problem
        self._scope = scope
        self._memory = memory
        self._meter = Meter()
        self._twins = _twins(workflow)
        self._outputs: dict[str, Output] = {}
        self._results: dict[str, NodeResult] = {}

    async def execute(self, budget: Budget) -> Execution:
        started = time.perf_counter()
        self._meter = Meter(budget, self._memory.spent)
        limit = budget.seconds
        left = None if limit is None else max(limit - self._memory.spent.seconds, 0)
        late = None
        output: Output = ()
        try:
            async with asyncio.timeout(left) as timeout:
                output = await self._block(self._workflow.nodes, ROOT, (), 0)
        except TimeoutError:
            if not timeout.expired():
                raise
            assert limit is not None
            late = NodeError("budget_seconds", str(BudgetSpentError("seconds", limit)))
        finally:
            self._meter.spent.seconds = time.perf_counter() - started
            self._memory.count(self._meter.spent)
        return self._execution(output, late)

    def _execution(self, output: Output, late: NodeError | None) -> Execution:
        known = [r for n in self._workflow.operators if (r := self._results.get(n.id))]
        errors = [result.error for result in known if result.error]
        values = [result.value for result in known if result.value]
        failed = late is not None or isinstance(output, NodeError) or not output
        return Execution(
            output=None if failed or isinstance(output, NodeError) else merged(output),
            partial=values[-1] if values else None,
            nodes=self._results,
            error=late or (errors[0] if errors else None),
            calls=tuple(self._meter.calls),
            spent=self._meter.spent,
        )

    async def _block(self, block: Block, key: str, given: Output, iteration: int) -> Output:
        """Run a sequence; what it yields is the output of its last node."""
        outputs: dict[int, Output] = {-1: given}

        async def part(index: int) -> None:
            before = outputs.get(index - 1, ())  # absent: a node that names its inputs
            node = block[index]
            outputs[index] = self._outputs[node.id] = await self._node(node, before, iteration)

        await _in_order(self._order[key], part)
        return outputs[len(block) - 1]

    async def _node(self, node: Node, given: Output, iteration: int) -> Output:
        match node:
            case OperatorNode():
                return await self._operator(node, given, iteration)
            case Parallel():
                return await self._parallel(node, given, iteration)
            case Conditional():
                return await self._conditional(node, given, iteration)
            case Loop():
                return await self._loop(node, given, iteration)

    async def _parallel(self, node: Parallel, given: Output, iteration: int) -> Output:
        shares = self._shares(node, given)
        outputs: dict[int, Output] = {}

        async def part(index: int) -> None:
            key = block_key(node.id, index)
            outputs[index] = await self._block(node.branches[index], key, shares[index], iteration)

        await _in_order(self._order[node.id], part)
        return _joined([outputs[index] for index in range(len(outputs))])

    async def _conditional(self, node: Conditional, given: Output, iteration: int) -> Output:
        checked = await self._check(node.condition, given, iteration)
        if isinstance(checked, NodeError):
            return checked
        passed = checked.passed != self._inverted
        arm, number = (node.on_true, 1) if passed else (node.on_false, 2)
        if not arm:
            return (checked,)
        return await self._block(arm, block_key(node.id, number), (checked,), iteration)

    async def _loop(self, node: Loop, given: Output, iteration: int) -> Output:
        for count in range(node.count):
            inner = iteration * _MAX_COUNT + count + 1
            given = await self._block(node.body, block_key(node.id, 0), given, inner)
            if node.until is None:
                continue
            checked = await self._check(node.until, given, inner)
            if isinstance(checked, NodeError):
                return checked
            given = (checked,)
            if checked.passed:
                break
        return given

    async def _check(self, node: OperatorNode, given: Output, iteration: int) -> Value | NodeError:
        """Run a condition; its value has a verdict."""
        output = self._outputs[node.id] = await self._operator(node, given, iteration)
        if isinstance(output, NodeError):
            return output
        if output[0].passed is None:
            return self._failed(
                self._results[node.id], NodeError(NO_VERDICT, f"{node.operator} gave no verdict")
            )
        return output[0]

    async def _operator(self, node: OperatorNode, given: Output, iteration: int) -> Output:
        result = self._results.setdefault(node.id, NodeResult(node.id, node.operator))
        values = self._named(node) if node.inputs else given
        if isinstance(values, NodeError):
            result.status, result.value = "skipped", None
            return NodeError(UPSTREAM, values.message)
        sample = self._twins[node.id] + _MAX_TWINS * iteration
        inputs = NodeInput(self._problem, node.prompt, values, sample)
        started = time.perf_counter()
        if self._fans_out(node, values):
            outcome = await self._fan_out(node, inputs, values[0], result)
        else:
            outcome = await self._once(node.operator, inputs, result)
        result.seconds += time.perf_counter() - started
        if outcome.value is None:
            return self._failed(result, outcome.error or NodeError("no_value", "nothing came"))
        result.status, result.value, result.error = "ok", outcome.value, None
        return (outcome.value,)

    @staticmethod
    def _failed(result: NodeResult, error: NodeError) -> NodeError:
        result.status, result.value = "error", None
        result.error = NodeError(error.code, f"{result.operator} ({result.id}): {error.message}")
        return result.error

    def _named(self, node: OperatorNode) -> Output:
        found = [self._outputs[name] for name in node.inputs if name in self._outputs]
        return _joined(found)

    async def _once(self, operator: str, inputs: NodeInput, result: NodeResult) -> NodeOutcome:
        """Carry an operator out, or take what it gave for the same before."""
        runner = self._operators[operator]
        before = [value.digest for value in inputs.previous]
        key = digest(
            *(operator, runner.parameters, inputs.instruction, inputs.problem, before),
            inputs.sample,
        )
        kept = self._memory.get(key)
        if kept is not None:
            result.reused += 1
            return NodeOutcome(kept)
        result.runs += 1
        try:
            outcome = await runner.run(inputs, self._scope, self._meter)
        except BudgetSpentError as error:
            return NodeOutcome.failed(f"budget_{error.what}", str(error))
        if outcome.value is not None:
            self._memory.keep(key, outcome.value)
        return outcome

    def _fans_out(self, node: OperatorNode, values: tuple[Value, ...]) -> bool:
        if len(values) != 1 or values[0].kind is not ValueKind.SUB_PROBLEMS or not values[0].parts:
            return False
        return self._operators[node.operator].spec.category == "solving"

    async def _fan_out(
        self, node: OperatorNode, inputs: NodeInput, decomposition: Value, result: NodeResult
    ) -> NodeOutcome:
        """Solve every sub-problem on its own; those that fail are left out, unless all do."""
        whole = (Value(f"This is one part of the problem:\n{self._problem}"),)
        outcomes = await together(
            self._once(
                node.operator, dataclasses.replace(inputs, problem=part, previous=whole), result
            )
            for part in decomposition.parts
        )
        solved = [
            (part, outcome.value.text)
            for part, outcome in zip(decomposition.parts, outcomes, strict=True)
            if outcome.value is not None
        ]
        if not solved:
            return outcomes[0]
        text = "\n".join(f"{i}. {part}\n   {found}" for i, (part, found) in enumerate(solved, 1))
        return NodeOutcome(
            Value(
                text,
                ValueKind.SUB_ANSWERS,
                parts=tuple(found for _, found in solved),
                fields={"sub_problems": "\n".join(part for part, _ in solved)},
            )
        )

    def _shares(self, node: Parallel, given: Output) -> list[Output]:
        """What each branch reads: the same, but solvers share the sub-problems between them."""
        same: list[Output] = [given] * len(node.branches)
        if isinstance(given, NodeError) or len(given) != 1:
            return same
        decomposition = given[0]
        solvers = [
            index
            for index, (first, *_) in enumerate(node.branches)
            if isinstance(first, OperatorNode) and not first.inputs and self._fans_out(first, given)
        ]
        for rank, index in enumerate(solvers):
            share = decomposition.parts[rank :: len(solvers)]
            kind = ValueKind.SUB_PROBLEMS if share else ValueKind.TEXT
            same[index] = (dataclasses.replace(decomposition, kind=kind, parts=share),)
        return same


def _joined(outputs: list[Output]) -> Output:
    """The values of all that did not fail; the first failure where all did."""
    failures = [output for output in outputs if isinstance(output, NodeError)]
    if failures and len(failures) == len(outputs):
        return failures[0]
    return tuple(v for output in outputs if not isinstance(output, NodeError) for v in output)


def _twins(workflow: Workflow) -> Mapping[str, int]:
    """For every operator, how many with the same name and prompt stand before it."""
    seen: Counter[tuple[str, str]] = Counter()

    def ranked() -> Iterator[tuple[str, int]]:
        for node in workflow.operators:
            yield node.id, seen[node.operator, node.prompt]
            seen[node.operator, node.prompt] += 1

    return dict(ranked())


async def _in_order(order: Order, part: Callable[[int], Awaitable[None]]) -> None:
    """Run parts as soon as those before them have ended; one alone needs no task."""
    if all(index - 1 in before for index, before in enumerate(order) if index):
        for index in range(len(order)):
            await part(index)
        return
    sorter = TopologicalSorter(dict(enumerate(order)))
    sorter.prepare()
    running: dict[asyncio.Task[None], int] = {}
    try:
        while sorter.is_active():
            ready = sorter.get_ready()
            if len(ready) == 1 and not running:
                await part(ready[0])
                sorter.done(*ready)
                continue
            running |= {asyncio.ensure_future(_run(part, index)): index for index in ready}
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
                sorter.done(running.pop(task))
    except BaseException:
        await stop(running)
        raise


async def _run(part: Callable[[int], Awaitable[None]], index: int) -> None:
    await part(index)
