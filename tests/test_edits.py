"""Edits: what each does to a workflow, why one is refused, and that ids never come back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from workflow_strategies import FEW, RULES, turns, workflows

from wfr.workflow.codes import Code
from wfr.workflow.dsl import parse
from wfr.workflow.edit_parser import parse_edit
from wfr.workflow.edits import (
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Applied,
    Delete,
    Finish,
    Modify,
    Place,
    Refused,
    SetPrompt,
    apply,
)
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import walk
from wfr.workflow.rules import Limits, Rules, check

BASE = "Plan -> [Custom, Programmer] -> Verify ? done : Revise -> (Custom) * 2 until Test"
# node_1  node_2 [3, 4]            node_5 (6 ? done : 7)    node_8 (9, until 10)


def edit(text, change):
    result = apply(parse(text), change, RULES)
    assert isinstance(result, Applied), result
    return result


@pytest.mark.parametrize(
    ("change", "expected", "nodes"),
    [
        (AddOperator("Format"), f"{BASE} -> Format", ("node_11",)),
        (AddOperator("Format", place=Place(0)), f"Format -> {BASE}", ("node_11",)),
        (
            AddOperator("Format", place=Place(1)),
            BASE.replace("Plan ->", "Plan -> Format ->"),
            ("node_11",),
        ),
        (
            AddOperator("Format", place=Place(target="node_3")),
            BASE.replace("[Custom,", "[Custom -> Format,"),
            ("node_11",),
        ),
        (
            AddOperator("Format", place=Place(target="node_7")),
            BASE.replace("Revise", "(Revise -> Format)"),
            ("node_11",),
        ),
        (
            AddOperator("Format", place=Place(target="node_2")),
            BASE.replace("-> Verify", "-> Format -> Verify"),
            ("node_11",),
        ),
        (
            AddParallel(("Custom", "Plan")),
            f"{BASE} -> [Custom, Plan]",
            ("node_11", "node_12", "node_13"),
        ),
        (
            AddConditional("Review", "", "Revise"),
            f"{BASE} -> Review ? done : Revise",
            ("node_11", "node_12", "node_13"),
        ),
        (
            AddLoop(("Revise", "Custom"), 4, "Verify", place=Place(target="node_9")),
            BASE.replace("(Custom)", "(Custom -> (Revise -> Custom) * 4 until Verify)"),
            ("node_11", "node_12", "node_13", "node_14"),
        ),
        (Modify("node_3", "Programmer"), BASE.replace("[Custom", "[Programmer"), ("node_3",)),
        (Modify("node_6", "Review"), BASE.replace("Verify", "Review"), ("node_6",)),
        (SetPrompt("node_10", "run it"), BASE, ("node_10",)),
        (Delete("node_1"), BASE.replace("Plan -> ", ""), ()),
        (Delete("node_2"), BASE.replace("[Custom, Programmer] -> ", ""), ()),
        (Delete("node_3"), BASE.replace("[Custom, Programmer]", "Programmer"), ()),
        (Delete("node_7"), BASE.replace(" ? done : Revise", ""), ()),
        (Delete("node_10"), BASE.replace(" until Test", ""), ()),
        (Delete("node_9"), BASE.replace(" -> (Custom) * 2 until Test", ""), ()),
        (Finish("42"), BASE, ()),
    ],
)
def test_each_edit(change, expected, nodes):
    result = edit(BASE, change)
    assert result.workflow.outline() == expected
    assert result.nodes == nodes
    assert result.message
    assert parse(BASE).outline() == BASE


def test_prompts_go_to_the_operators_in_their_order():
    change = AddConditional("Review", "Format", "Revise", ("check it", "shorten it"))
    result = edit("Plan", change)
    prompts = [node.prompt for node in result.workflow.operators]
    assert prompts == ["", "check it", "shorten it", ""]


def test_set_prompt_and_modify():
    planned = edit("Plan", SetPrompt("node_1", "be brief")).workflow
    assert planned.operators[0].prompt == "be brief"
    assert apply(planned, Modify("node_1", "Custom"), RULES).workflow.operators[0].prompt == ""
    prompted = apply(planned, Modify("node_1", "Custom", "do it now"), RULES).workflow
    assert prompted.operators[0].prompt == "do it now"


def test_inputs_follow_what_remains():
    workflow = parse("Plan -> Custom -> Aggregate(node_1, node_2)")
    left = apply(workflow, Delete("node_1"), RULES)
    assert left.workflow.operators[-1].inputs == ("node_2",)
    left = apply(left.workflow, Delete("node_2"), RULES)
    assert left.workflow.operators[-1].inputs == ()


def test_an_unreachable_node_is_noted_and_not_refused():
    result = edit("Plan -> Custom", AddOperator("Format", inputs=("node_1",)))
    assert [(p.code, p.node) for p in result.notes] == [(Code.UNREACHABLE_NODE, "node_2")]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (AddOperator("plan"), Code.UNKNOWN_OPERATOR),
        (AddOperator("no name"), Code.UNKNOWN_OPERATOR),
        (AddOperator("done"), Code.UNKNOWN_OPERATOR),
        (AddParallel(("Plan", "")), Code.UNKNOWN_OPERATOR),
        (AddConditional("Verify", "Plan", "plan"), Code.UNKNOWN_OPERATOR),
        (AddLoop(("Plan",), 2, "verify"), Code.UNKNOWN_OPERATOR),
        (Modify("node_99", "plan"), Code.UNKNOWN_OPERATOR),
        (AddOperator("Plan", "x"), Code.PROMPT_TOO_SHORT),
        (AddOperator("Plan", "x" * 5000), Code.PROMPT_TOO_LONG),
        (AddOperator("Plan", place=Place(5)), Code.BAD_POSITION),
        (AddOperator("Plan", place=Place(-1)), Code.BAD_POSITION),
        (AddOperator("Plan", place=Place(target="node_99")), Code.UNKNOWN_NODE),
        (AddOperator("Plan", place=Place(target="node_6")), Code.BAD_POSITION),
        (AddOperator("Plan", inputs=("node_11",)), Code.SELF_REFERENCE),
        (
            AddOperator("Plan", inputs=("node_8",), place=Place(target="node_9")),
            Code.SELF_REFERENCE,
        ),
        (AddOperator("Plan", inputs=("node_99",)), Code.UNKNOWN_INPUT),
        (AddOperator("Plan", inputs=("node_5",), place=Place(0)), Code.CYCLE),
        (AddParallel(("Plan",)), Code.TOO_FEW_OPERATORS),
        (AddParallel(("Plan", "Aggregate")), Code.MISPLACED_OPERATOR),
        (AddParallel(("Plan", "Custom"), ("one two",) * 3), Code.TOO_MANY_PROMPTS),
        (AddConditional("Plan", "Custom"), Code.NOT_A_CHECK),
        (AddConditional("Verify", "", ""), Code.TOO_FEW_OPERATORS),
        (AddLoop((), 2), Code.TOO_FEW_OPERATORS),
        (AddLoop((), 2, "Verify"), Code.TOO_FEW_OPERATORS),
        (AddLoop(("Plan",), 11), Code.BAD_COUNT),
        (AddLoop(("Plan",), 0), Code.BAD_COUNT),
        (AddLoop(("Plan",), 2, "Custom"), Code.NOT_A_CHECK),
        (Delete("node_99"), Code.UNKNOWN_NODE),
        (Delete("node_6"), Code.TOO_FEW_OPERATORS),
        (Modify("node_99", "Plan"), Code.UNKNOWN_NODE),
        (Modify("node_2", "Plan"), Code.UNKNOWN_NODE),
        (Modify("node_6", "Plan"), Code.NOT_A_CHECK),
        (Modify("node_9", "Custom", inputs=("node_9",)), Code.SELF_REFERENCE),
        (Modify("node_1", "Custom", inputs=("node_9",)), Code.CYCLE),
        (SetPrompt("node_5", "say why"), Code.UNKNOWN_NODE),
        (SetPrompt("node_1", "why"), Code.PROMPT_TOO_SHORT),
        (SetPrompt("node_1", "  "), Code.PROMPT_TOO_SHORT),
    ],
)
def test_each_refusal(change, code):
    result = apply(parse(BASE), change, RULES)
    assert isinstance(result, Refused)
    assert result.code is code
    assert result.message
    assert result.hint


def test_limits_on_size_and_depth():
    rules = Rules(RULES.operators, Limits(max_nodes=2, max_depth=1))
    full = parse("Plan -> Custom")
    assert apply(full, AddOperator("Plan"), rules).code is Code.TOO_MANY_NODES
    looped = parse("(Custom) * 2")
    nested = AddLoop(("Plan",), place=Place(target="node_2"))
    assert apply(looped, nested, rules).code is Code.TOO_DEEP


@FEW
@given(workflows(), st.data())
def test_deleting_any_node_leaves_a_whole_workflow_without_it(workflow, data):
    nodes = list(walk(workflow.nodes))
    if not nodes:
        return
    target = data.draw(st.sampled_from(nodes))
    result = apply(workflow, Delete(target.id), Rules(RULES.operators, Limits(1000, 99)))
    if isinstance(result, Refused):
        known = {problem.code for problem in check(workflow, RULES)}
        assert result.code in known | {Code.TOO_FEW_OPERATORS, Code.MISPLACED_OPERATOR}
        return
    gone = {each.id for each in walk((target,))}
    left = [node.id for node in walk(result.workflow.nodes)]
    assert not gone & set(left)
    operators = [n.id for n in workflow.operators]
    assert [n.id for n in result.workflow.operators] == [
        i for i in operators if i not in gone and i in left
    ]
    assert result.workflow.next_id == workflow.next_id


class Canvas(RuleBasedStateMachine):
    """Any sequence of turns keeps the workflow legal, and never gives an id twice."""

    def __init__(self):
        super().__init__()
        self.workflow = Workflow()
        self.given = set()

    @rule(text=turns())
    def turn(self, text):
        parsed = parse_edit(text, operators=RULES.operators)
        if parsed.edit is None:
            return
        before = self.workflow
        known = {node.id for node in walk(before.nodes)}
        result = apply(before, parsed.edit, RULES)
        if isinstance(result, Refused):
            assert result.code
            return
        self.workflow = result.workflow
        new = {node.id for node in walk(self.workflow.nodes)} - known
        assert not new & self.given
        self.given |= new
        if isinstance(parsed.edit, AddOperator | AddParallel | AddConditional | AddLoop):
            assert new == set(result.nodes)

    @invariant()
    def legal(self):
        assert check(self.workflow, RULES) == ()
        assert parse(self.workflow.to_dsl()) == self.workflow
        assert Workflow.from_json(self.workflow.to_json()) == self.workflow


Canvas.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_any_sequence_of_turns = Canvas.TestCase
