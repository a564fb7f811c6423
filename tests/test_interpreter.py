"""The interpreter: what flows where, what runs again, what it may cost, what it leaves running."""

from __future__ import annotations

import asyncio
import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_strategies import CHECKS, FEW, NAMES, workflows

from wfr.operators.base import OperatorSpec, Scope
from wfr.operators.meter import Budget, BudgetSpentError, Meter
from wfr.operators.together import together
from wfr.operators.values import NodeInput, NodeOutcome, Value, ValueKind, merged
from wfr.trajectory import OperatorCall, StopReason, WorldFailureError
from wfr.workflow.dsl import parse
from wfr.workflow.edits import AddOperator, Delete, Place, SetPrompt, apply
from wfr.workflow.interpreter import Interpreter, Memory
from wfr.workflow.rules import Limits, Rules

SCOPE = Scope("t")


class Echo:
    """Says its name and what it read: `Name(first, second)`; `rule` overrides that."""

    parameters = ""

    def __init__(self, spec, log, rule=None):
        self.spec = spec
        self.log = log
        self.rule = rule

    async def run(self, inputs, scope, meter):
        meter.claim()
        self.log.append((self.spec.name, inputs))
        await asyncio.sleep(0)
        meter.record(OperatorCall(self.spec.name, "fake", 0.0, 3, 2, 0.5))
        if self.rule:
            outcome = self.rule(inputs)
            return await outcome if asyncio.iscoroutine(outcome) else outcome
        read = ", ".join(value.text for value in inputs.previous)
        return NodeOutcome(Value(f"{self.spec.name}({read})"))


CATEGORIES = {"Custom": "solving", "Programmer": "solving"}


def library(log, **rules):
    names = {*NAMES, *"ABCDEFGHIJ", *rules}
    specs = {
        name: OperatorSpec(name, CATEGORIES.get(name, "any"), "", "", is_check=name in CHECKS)
        for name in names
    }
    return {name: Echo(spec, log, rules.get(name)) for name, spec in specs.items()}


class Bench:
    """An interpreter over echoes, with the log of what they were given."""

    def __init__(self, inverted=False, **rules):
        self.log = []
        self.memory = Memory()
        self.interpreter = Interpreter(library(self.log, **rules), legacy_inverted=inverted)

    def run(self, workflow, budget=None):
        self.log.clear()
        workflow = parse(workflow) if isinstance(workflow, str) else workflow
        return asyncio.run(self.arun(workflow, budget))

    async def arun(self, workflow, budget=None):
        before = asyncio.all_tasks()
        try:
            return await self.interpreter.run(
                workflow, "what?", SCOPE, memory=self.memory, budget=budget
            )
        finally:
            assert asyncio.all_tasks() == before

    @property
    def ran(self):
        return [name for name, _ in self.log]


def check(passed, feedback=""):
    """A check's rule: the solution passes through; `passed` may be a list of verdicts in turn."""
    verdicts = passed if isinstance(passed, list) else [passed]

    def rule(inputs):
        verdict = verdicts.pop(0) if len(verdicts) > 1 else verdicts[0]
        text = inputs.previous[0].text if inputs.previous else ""
        return NodeOutcome(Value(text, passed=verdict, feedback=feedback))

    return rule


def fails(code="broken"):
    return lambda inputs: NodeOutcome.failed(code, "it broke")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A", "A()"),
        ("A -> B -> C", "C(B(A()))"),
        ("A -> [B, C] -> D", "D(B(A()), C(A()))"),
        ("A -> [B -> C, D] -> E", "E(C(B(A())), D(A()))"),
        ("[A, [B, C]] -> D", "D(A(), B(), C())"),
        ("(A -> B) * 3", "B(A(B(A(B(A())))))"),
        ("A -> ((B) * 2 -> C) * 2", "C(B(B(C(B(B(A()))))))"),
        ("A -> B -> C(node_1)", "C(A())"),
        ("A -> B -> C(node_1, node_2)", "C(A(), B(A()))"),
        ("A -> [B, C] -> D(node_2) -> E(node_1, node_5)", "E(A(), D(B(A()), C(A())))"),
        ("[A -> B, C(node_2)] -> D", "D(B(A()), C(A()))"),
        ("[C(node_3), A -> B] -> D", "D(C(A()), B(A()))"),
        ("(A) * 3 -> B(node_2)", "B(A(A(A())))"),
    ],
)
def test_what_flows_where(text, answer):
    execution = Bench().run(text)
    assert execution.answer == answer
    assert execution.error is None
    assert all(result.status == "ok" for result in execution.nodes.values())


def slow_flow(workflow):
    """The answer by recursion over the derived edges: for workflows without choice and loops."""
    sources = {node.id: [] for node in workflow.operators}
    for source, reader in workflow.edges():
        sources[reader].append(source)
    names = {node.id: node.operator for node in workflow.operators}

    def text(node_id):
        return f"{names[node_id]}({', '.join(text(s) for s in sources[node_id])})"

    return {node_id: text(node_id) for node_id in names}


@FEW
@given(workflows())
def test_values_follow_the_edges(workflow):
    if any("?" in part or "*" in part for part in [workflow.outline()]):
        return
    execution = Bench().run(workflow)
    expected = slow_flow(workflow)
    assert {i: result.value.text for i, result in execution.nodes.items()} == expected


@FEW
@given(workflows(), st.data())
def test_any_workflow_runs_to_its_end_whatever_fails(workflow, data):
    rules = {}
    for name in NAMES:
        verdict = data.draw(st.sampled_from(["echo", "true", "false", "fails"]), label=name)
        rules[name] = {
            "echo": None,
            "true": check(True),
            "false": check(False),
            "fails": fails(),
        }[verdict]
    bench = Bench(**rules)
    execution = bench.run(workflow, Budget(calls=300))
    assert (execution.output is None) <= (execution.error is not None or not workflow.nodes)
    assert execution.executed == len(bench.log) + sum(
        bool(r.error and r.error.code == "budget_calls") for r in execution.nodes.values()
    )
    again = bench.run(workflow, Budget(calls=0))
    if execution.error is None:
        assert (again.output, again.executed) == (execution.output, 0)


def test_what_an_operator_is_given():
    bench = Bench()
    bench.run('A{"be brief"} -> B')
    assert bench.log == [
        ("A", NodeInput("what?", "be brief")),
        ("B", NodeInput("what?", "", (Value("A()"),))),
    ]


def test_an_empty_workflow_has_no_output():
    execution = Bench().run("")
    assert (execution.output, execution.error, execution.answer) == (None, None, "")


# --- structures ---


@pytest.mark.parametrize(
    ("passed", "inverted", "answer"),
    [
        (True, False, "E(T(A()))"),
        (False, False, "E(F(A()))"),
        (True, True, "E(F(A()))"),
        (False, True, "E(T(A()))"),
    ],
)
def test_the_true_arm_runs_on_success(passed, inverted, answer):
    bench = Bench(inverted, Verify=check(passed, "why"), T=None, F=None)
    execution = bench.run("A -> Verify ? T : F -> E")
    assert execution.answer == answer
    arm = next(inputs for name, inputs in bench.log if name in "TF")
    assert (arm.previous[0].passed, arm.previous[0].feedback) == (passed, "why")
    assert len(execution.nodes) == 4


def test_an_empty_arm_passes_on_what_was_checked():
    execution = Bench(Verify=check(True)).run("A -> Verify ? done : F")
    assert execution.output == Value("A()", passed=True)


def test_a_condition_without_verdict_runs_no_arm():
    for rule in (fails(), None):
        bench = Bench(Verify=rule)
        execution = bench.run("A -> Verify ? T : F -> E")
        assert bench.ran == ["A", "Verify"]
        assert execution.output is None
        assert execution.error.code == ("broken" if rule else "no_verdict")
        assert execution.partial.text == "A()"


def test_a_loop_ends_when_its_condition_passes():
    bench = Bench(Verify=check([False, True], "again"))
    execution = bench.run("A -> (B) * 5 until Verify -> C")
    assert execution.answer == "C(B(B(A())))"
    assert bench.ran == ["A", "B", "Verify", "B", "Verify", "C"]
    assert bench.log[3][1].previous[0].feedback == "again"
    assert execution.nodes["node_3"].runs == 2


def test_a_loop_is_bounded():
    bench = Bench(Verify=check(False))
    execution = bench.run("(B) * 3 until Verify")
    assert bench.ran == ["B", "Verify"] * 3
    assert execution.output.passed is False


def test_branches_run_at_once():
    everyone = asyncio.Barrier(3)

    async def meet(inputs):
        await everyone.wait()
        return NodeOutcome(Value("met"))

    bench = Bench(B=meet, C=meet, D=meet)
    assert bench.run("A -> [B, C, D]").answer == "met"
    assert bench.ran == ["A", "B", "C", "D"]


def test_nodes_that_do_not_read_one_another_run_at_once():
    everyone = asyncio.Barrier(2)

    async def meet(inputs):
        await everyone.wait()
        return NodeOutcome(Value("met"))

    bench = Bench(B=meet, C=meet)
    assert bench.run("A -> B -> C(node_1) -> D(node_2, node_3)").answer == "D(met, met)"


# --- failures are values ---


def test_a_failure_skips_what_reads_it():
    bench = Bench(B=fails())
    execution = bench.run("A -> B -> C -> D")
    assert bench.ran == ["A", "B"]
    assert [r.status for r in execution.nodes.values()] == ["ok", "error", "skipped", "skipped"]
    assert execution.error.code == "broken"
    assert execution.error.message == "B (node_2): it broke"
    assert (execution.output, execution.partial.text) == (None, "A()")


def test_a_branch_that_fails_is_left_out():
    execution = Bench(B=fails()).run("A -> [B, C] -> D")
    assert execution.answer == "D(C(A()))"
    assert execution.error.code == "broken"


def test_failures_are_not_kept():
    outcomes = [NodeOutcome.failed("broken", "x"), NodeOutcome(Value("fine"))]
    bench = Bench(B=lambda inputs: outcomes.pop(0))
    assert bench.run("A -> B").output is None
    execution = bench.run("A -> B")
    assert execution.answer == "fine"
    assert (execution.executed, execution.reused) == (1, 1)


# --- incremental execution ---

TWELVE = "A -> [B, C -> D] -> E -> Verify ? F : G -> (H) * 2 -> I -> J -> A"


def edited(workflow, edit):
    specs = {name: operator.spec for name, operator in library([]).items()}
    return apply(workflow, edit, Rules(specs, Limits(min_prompt_chars=1))).workflow


def descendants(workflow, node_id):
    found = {node_id}
    for _ in workflow.operators:
        found |= {reader for source, reader in workflow.edges() if source in found}
    return found


def telling(inputs, name):
    """An output that tells the prompt, so that an edit of it changes what follows."""
    read = ", ".join(value.text for value in inputs.previous)
    passed = True if name in CHECKS else None
    return NodeOutcome(Value(f"{name}{inputs.instruction}({read})", passed=passed))


@pytest.mark.parametrize("index", range(11))
def test_an_edit_of_a_prompt_runs_its_descendants_again_and_nothing_else(index):
    names = {*NAMES, *"ABCDEFGHIJ"}
    bench = Bench(**{name: functools.partial(telling, name=name) for name in names})
    workflow = parse(TWELVE)
    first = bench.run(workflow)
    assert workflow.size == 12
    assert first.executed == 12  # one arm does not run, the loop runs twice
    node_id = list(first.nodes)[index]
    changed = edited(workflow, SetPrompt(node_id, "now otherwise"))
    second = bench.run(changed)
    again = {i for i, result in second.nodes.items() if result.runs}
    assert again == descendants(changed, node_id) & set(second.nodes)
    assert second.executed + second.reused == first.executed


def test_nothing_changed_nothing_runs():
    bench = Bench(Verify=check(True))
    bench.run(TWELVE)
    execution = bench.run(TWELVE)
    assert (execution.executed, execution.calls) == (0, ())
    assert execution.spent.calls == 0


def test_an_equal_output_spares_what_follows():
    bench = Bench(B=lambda inputs: NodeOutcome(Value("same")))
    bench.run('A -> B{"one"} -> C')
    bench.run('A -> B{"two"} -> C')
    assert bench.ran == ["B"]


def test_other_parameters_run_again():
    bench = Bench()
    bench.run("A -> B")
    bench.interpreter._operators["B"].parameters = "another model"
    bench.run("A -> B")
    assert bench.ran == ["B"]


def test_a_node_that_moves_or_changes_its_id_is_not_run_again():
    bench = Bench()
    workflow = parse("A -> [B, C] -> D")
    bench.run(workflow)
    moved = edited(edited(workflow, Delete("node_3")), AddOperator("D", place=Place(1)))
    bench.run(parse("A -> [B, C] -> D -> E"))
    assert bench.ran == ["E"]
    bench.run(moved)
    assert bench.ran == ["D", "C", "D"]


def test_equal_nodes_are_different_samples():
    bench = Bench()
    bench.run("[A, A, A]")
    assert sorted(inputs.sample for _, inputs in bench.log) == [0, 1, 2]
    bench.run("[A, A, A, A]")
    assert [inputs.sample for _, inputs in bench.log] == [3]


def test_iterations_are_different_samples_whatever_else_there_is():
    same = lambda inputs: NodeOutcome(Value("same"))  # noqa: E731
    bench = Bench(A=same)
    bench.run("(A) * 3")
    assert len({inputs.sample for _, inputs in bench.log}) == 3
    bench.run("(A) * 4 -> B")
    assert bench.ran == ["A", "B"]


def test_memory_can_be_kept_and_restored():
    bench = Bench(Verify=check(True))
    first = bench.run(TWELVE)
    data = json.loads(json.dumps(bench.memory.state()))
    bench.memory = Memory()
    bench.memory.restore(data)
    second = bench.run(TWELVE)
    assert (second.executed, second.output) == (0, first.output)
    assert bench.memory.spent.calls == first.spent.calls == 12


def test_memory_drops_what_was_not_used_for_longest():
    memory = Memory(kept=2)
    for key in "ab":
        memory.keep(key, Value(key))
    assert memory.get("a") == Value("a")
    memory.keep("c", Value("c"))
    assert [memory.get(key) is None for key in "abc"] == [False, True, False]


# --- sub-problems ---


def decompose(*parts):
    return lambda inputs: NodeOutcome(Value("parts", ValueKind.SUB_PROBLEMS, parts=parts))


def test_a_solver_runs_once_per_sub_problem():
    bench = Bench(A=decompose("p", "q"), Custom=lambda i: NodeOutcome(Value(f"solved {i.problem}")))
    execution = bench.run("A -> Custom -> B")
    assert [i.problem for name, i in bench.log if name == "Custom"] == ["p", "q"]
    read = bench.log[-1][1].previous[0]
    assert read.kind is ValueKind.SUB_ANSWERS
    assert read.parts == ("solved p", "solved q")
    assert read.fields["sub_problems"] == "p\nq"
    assert "what?" in bench.log[1][1].previous[0].text
    assert execution.nodes["node_2"].runs == 2


def test_parallel_solvers_share_the_sub_problems():
    bench = Bench(A=decompose(*"pqrst"))
    bench.run("A -> [Custom, Programmer, B]")
    given = [(name, i.problem) for name, i in bench.log[1:]]
    assert sorted(given) == [
        ("B", "what?"),
        *(("Custom", part) for part in "prt"),
        *(("Programmer", part) for part in "qs"),
    ]


def test_a_solver_without_a_share_works_on_the_whole():
    bench = Bench(A=decompose("p"))
    bench.run("A -> [Custom, Custom]")
    assert sorted(i.problem for _, i in bench.log[1:]) == ["p", "what?"]


def test_sub_problems_that_fail_are_left_out():
    bench = Bench(
        A=decompose("p", "q"),
        Custom=lambda i: fails()(i) if i.problem == "p" else NodeOutcome(Value("q is 1")),
    )
    assert bench.run("A -> Custom").output.parts == ("q is 1",)
    bench = Bench(A=decompose("p", "q"), Custom=fails())
    assert bench.run("A -> Custom").error.code == "broken"


# --- budgets ---


def test_the_budget_of_calls_is_kept():
    bench = Bench()
    execution = bench.run("A -> B -> C", Budget(calls=2))
    assert bench.ran == ["A", "B"]
    assert execution.error.code == "budget_calls"
    assert execution.partial.text == "B(A())"
    assert bench.run("A -> B -> D", Budget(calls=3)).answer == "D(B(A()))"
    assert bench.run("A -> B -> C", Budget(calls=3)).error.code == "budget_calls"


def test_the_budget_of_calls_holds_for_branches_at_once():
    bench = Bench()
    execution = bench.run("[A, B, C, D] -> E", Budget(calls=3))
    assert len(bench.ran) == 3
    assert execution.spent.calls == 3


def test_the_budget_of_tokens():
    execution = Bench().run("A -> B -> C", Budget(tokens=6))
    assert execution.error.code == "budget_tokens"
    assert execution.spent.tokens == 10


def test_the_budget_of_seconds_keeps_what_there_is():
    async def forever(inputs):
        await asyncio.Event().wait()

    bench = Bench(B=forever, C=forever)
    execution = bench.run("A -> [B, C] -> D", Budget(seconds=0.05))
    assert execution.error.code == "budget_seconds"
    assert (execution.output, execution.partial.text) == (None, "A()")
    assert bench.memory.spent.seconds >= 0.05


def test_what_is_spent_is_counted():
    execution = Bench().run("A -> B")
    spent = execution.spent
    assert (spent.calls, spent.tokens, spent.cost_usd) == (2, 10, 1.0)
    assert [call.operator for call in execution.calls] == ["A", "B"]


def test_a_meter_counts_what_is_claimed_before_it_is_recorded():
    meter = Meter(Budget(calls=2))
    meter.claim()
    meter.claim()
    with pytest.raises(BudgetSpentError, match="2 calls"):
        meter.claim()


# --- the world, and the end ---


@pytest.mark.parametrize(
    "error", [WorldFailureError(StopReason.BACKEND_FAILED, "down"), KeyError("bug"), TimeoutError()]
)
def test_what_the_world_does_wrong_stops_everything_and_is_raised_as_it_is(error):
    started = []

    async def forever(inputs):
        started.append(inputs)
        await asyncio.Event().wait()

    async def breaks(inputs):
        await asyncio.sleep(0)
        raise error

    bench = Bench(B=forever, C=breaks)
    with pytest.raises(type(error)) as caught:
        bench.run("A -> [B -> D, [C, B], Custom] -> E")
    assert caught.value is error
    assert len(started) == 2
    assert bench.memory.spent.calls >= 1


def test_what_was_done_before_the_world_failed_is_kept():
    calls = []

    def once(inputs):
        calls.append(inputs)
        if len(calls) == 1:
            raise WorldFailureError(StopReason.BACKEND_FAILED, "down")
        return NodeOutcome(Value("fine"))

    bench = Bench(B=once)
    with pytest.raises(WorldFailureError):
        bench.run("A -> B")
    bench.run("A -> B")
    assert bench.ran == ["B"]


def test_cancelling_leaves_nothing_running():
    async def scenario():
        stopped = []
        waiting = asyncio.Event()

        async def forever(inputs):
            waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)  # ending may itself take a turn
                stopped.append(inputs.problem)

        bench = Bench(B=forever, Custom=forever, A=decompose("p", "q"))
        before = asyncio.all_tasks()
        task = asyncio.create_task(bench.arun(parse("A -> [B, Custom, (B) * 2] -> C")))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == before
        assert sorted(stopped) == ["p", "q", "what?", "what?"]

    asyncio.run(scenario())


def test_together_stops_the_others_and_waits_for_them():
    async def scenario():
        ended = []

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(1)

        async def breaks():
            await asyncio.sleep(0)
            raise KeyError("x")

        with pytest.raises(KeyError):
            await together([forever(), breaks(), forever()])
        assert ended == [1, 1]
        assert await together([]) == []

    asyncio.run(scenario())


# --- values ---


def test_merged_values():
    one = Value("x", code="c")
    assert merged([one]) == one
    same = merged([Value("x", passed=True, feedback="a"), Value("x", passed=False, feedback="b")])
    assert same == Value("x", passed=False, feedback="a\nb")
    several = merged([Value("x"), Value("y", ValueKind.CANDIDATES, parts=("p", "q"))])
    assert (several.kind, several.parts) == (ValueKind.CANDIDATES, ("x", "p", "q"))
    assert several.text == "[1] x\n\n[2] p\n\n[3] q"


@FEW
@given(st.text(), st.text(), st.booleans() | st.none(), st.lists(st.text()).map(tuple))
def test_values_survive_json_and_their_hash_tells_them_apart(text, code, passed, parts):
    value = Value(text, ValueKind.PLAN, code, parts, passed, "f", {"k": text})
    again = Value.from_json(json.loads(json.dumps(value.to_json())))
    assert again == value
    assert again.digest == value.digest
    others = [Value(text + "x"), Value(text, code=code), Value(text, passed=passed)]
    assert all(other.digest != value.digest for other in others)
