"""The workflow graph: shapes, ids, edges, order, JSON, diagrams."""

from __future__ import annotations

import graphlib
import json

import pytest
from hypothesis import given
from workflow_strategies import FEW, RULES, workflows

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.dsl import parse
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import Conditional, Loop, OperatorNode, Parallel, walk
from wfr.workflow.rules import Limits, Rules, check, unreachable


def A(number, operator="Custom", *inputs):  # noqa: N802
    names = tuple(f"node_{i}" for i in inputs)
    return OperatorNode(f"node_{number}", operator, inputs=names)


def edges(text):
    pairs = parse(text).edges()
    return {(int(a.removeprefix("node_")), int(b.removeprefix("node_"))) for a, b in pairs}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A -> B -> C", {(1, 2), (2, 3)}),
        ("A -> [B, C -> D] -> E", {(1, 3), (1, 4), (4, 5), (3, 6), (5, 6)}),
        ("A -> V ? T : F -> B", {(1, 3), (3, 4), (3, 5), (4, 6), (5, 6)}),
        ("A -> V ? done : F -> B", {(1, 3), (3, 4), (3, 5), (4, 5)}),
        ("A -> (B -> C) * 3 -> D", {(1, 3), (3, 4), (4, 5)}),
        ("A -> (B) * 3 until V -> C", {(1, 3), (3, 4), (4, 5)}),
        ("A -> B(node_1) -> C(node_1)", {(1, 2), (1, 3)}),
        ("A -> [B, C] -> D(node_2, node_1)", {(1, 3), (1, 4), (3, 5), (4, 5), (1, 5)}),
        ("[A -> B, C(node_2)]", {(2, 3), (2, 4)}),
    ],
)
def test_edges(text, expected):
    assert edges(text) == expected


@FEW
@given(workflows())
def test_edges_form_a_dag_over_the_operators(workflow):
    graph = {node.id: set() for node in workflow.operators}
    for source, reader in workflow.edges():
        graph[reader].add(source)
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(graph)
    assert set(workflow.flow.outputs) <= set(graph)


@FEW
@given(workflows())
def test_an_operator_is_reachable_if_and_only_if_a_path_leads_to_an_output(workflow):
    def reaches(node_id):
        readers = [reader for source, reader in workflow.edges() if source == node_id]
        return node_id in workflow.flow.outputs or any(map(reaches, readers))

    reached = {node.id for node in workflow.operators if reaches(node.id)}
    assert workflow.on_output_path() == reached
    assert {p.node for p in unreachable(workflow)} == {n.id for n in workflow.operators} - reached


@pytest.mark.parametrize(
    ("nodes", "code"),
    [
        ((A(1, "Custom", 1),), Code.SELF_REFERENCE),
        ((Loop("node_1", (A(2, "Custom", 1),), 2),), Code.SELF_REFERENCE),
        ((A(1, "Custom", 2), A(2)), Code.CYCLE),
        ((A(1, "Custom", 3), A(2), A(3)), Code.CYCLE),
        ((Parallel("node_1", ((A(2, "Custom", 3),), (A(3, "Custom", 2),))),), Code.CYCLE),
        ((Conditional("node_1", A(2, "Verify", 3), (A(3),)),), Code.CYCLE),
        ((Loop("node_1", (A(2, "Custom", 3),), 2, A(3)),), Code.CYCLE),
        ((A(1, "Custom", 8),), Code.UNKNOWN_INPUT),
        ((Conditional("node_1", A(2), (A(3, "Custom", 4),), (A(4),)),), Code.UNKNOWN_INPUT),
        ((A(1), A(1)), Code.BAD_ID),
        ((OperatorNode("a", "Custom"),), Code.BAD_ID),
        ((A(99),), Code.BAD_ID),
        ((A(1, "no name"),), Code.SYNTAX),
        ((A(1, "done"),), Code.SYNTAX),
        ((Parallel("node_1", ((A(2),),)),), Code.TOO_FEW_OPERATORS),
        ((Parallel("node_1", ((A(2),), ())),), Code.TOO_FEW_OPERATORS),
        ((Conditional("node_1", A(2), ()),), Code.TOO_FEW_OPERATORS),
        ((Loop("node_1", (), 2),), Code.TOO_FEW_OPERATORS),
        ((Loop("node_1", (A(2),), 0),), Code.BAD_COUNT),
    ],
)
def test_what_is_no_workflow(nodes, code):
    with pytest.raises(WorkflowError) as caught:
        Workflow(nodes, 50)
    assert caught.value.code is code


@pytest.mark.parametrize("next_id", [0, -1, 10**9])
def test_a_counter_that_gives_no_ids(next_id):
    with pytest.raises(WorkflowError) as caught:
        Workflow((), next_id)
    assert caught.value.code is Code.BAD_ID


def test_an_input_may_name_a_structure_or_a_node_inside_one():
    text = "[Plan, Custom -> Custom]@node_9"  # ids stand before structures
    with pytest.raises(WorkflowError):
        parse(text)
    assert (2, 5) in edges("[A, B] -> C -> D(node_1)")
    assert (3, 6) in edges("[A -> B, C] -> D -> E(node_3)")


@FEW
@given(workflows())
def test_json_round_trip(workflow):
    text = json.dumps(workflow.to_json())
    assert Workflow.from_json(json.loads(text)) == workflow


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], {}, {"nodes": []}, {"nodes": [], "next_id": "1"}, {"nodes": 3, "next_id": 1}),
        *(
            {"nodes": [node], "next_id": 9}
            for node in (
                *(None, {}, {"id": "node_1"}, {"id": 1, "operator": "A"}),
                {"id": "node_1", "operator": "A", "prompt": 3},
                {"id": "node_1", "operator": "A", "inputs": "node_2"},
                {"id": "node_1", "parallel": 3},
                {"id": "node_1", "loop": [], "count": True},
                {"id": "node_1", "if": {"id": "node_2", "parallel": []}, "true": [], "false": []},
                {"id": "node_1", "operator": "A", "count": 3},
            )
        ),
    ],
)
def test_json_that_is_no_workflow(data):
    with pytest.raises(WorkflowError):
        Workflow.from_json(data)


def test_json_nested_without_end():
    data = []
    for _ in range(500):
        data = [{"id": "node_1", "loop": data, "count": 1}]
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_json({"nodes": data, "next_id": 2})
    assert caught.value.code is Code.TOO_DEEP


@FEW
@given(workflows())
def test_diagrams_name_every_operator_and_edge(workflow):
    mermaid, dot = workflow.to_mermaid(), workflow.to_dot()
    for node in workflow.operators:
        assert f'{node.id}["{node.operator} · {node.id}"]' in mermaid
        assert f"{node.id} [label=" in dot
    for source, reader in workflow.edges():
        assert f"{source} --> {reader}" in mermaid
        assert f"{source} -> {reader};" in dot


def test_sizes():
    workflow = parse("Plan -> [Custom, (Programmer) * 2 until Test] -> Verify ? done : Revise")
    assert (workflow.size, workflow.depth) == (6, 2)
    assert Workflow().size == Workflow().depth == 0


@pytest.mark.parametrize(
    ("text", "code", "node"),
    [
        ("Plan -> Serch", Code.UNKNOWN_OPERATOR, "node_2"),
        ("Plan -> plan", Code.UNKNOWN_OPERATOR, "node_2"),
        ("Plan ? Custom : done", Code.NOT_A_CHECK, "node_2"),
        ("(Plan) * 2 until Custom", Code.NOT_A_CHECK, "node_3"),
        ("(Plan) * 11", Code.BAD_COUNT, "node_1"),
        ("[Plan, Aggregate]", Code.MISPLACED_OPERATOR, "node_3"),
        ('Plan{"  hey "}', Code.PROMPT_TOO_SHORT, "node_1"),
        (f'Plan{{"{"x" * 41}"}}', Code.PROMPT_TOO_LONG, "node_1"),
        ("[Plan, Plan, Plan, Plan]", Code.TOO_MANY_NODES, "node_1"),
        ("Plan -> Plan -> Plan -> Plan -> Plan -> Plan", Code.TOO_MANY_NODES, ""),
        ("[Plan, [Plan, [Plan, Plan]]]", Code.TOO_DEEP, ""),
    ],
)
def test_rules(text, code, node):
    limits = Limits(max_nodes=5, max_depth=2, max_prompt_chars=40, max_branches=3)
    problems = check(parse(text), Rules(RULES.operators, limits))
    assert [(p.code, p.node) for p in problems] == [(code, node)]
    assert problems[0].message
    assert problems[0].hint


def test_what_the_rules_allow():
    text = "Plan -> [Custom, [Custom, Custom] -> ScEnsemble] -> Aggregate -> Verify ? done : Revise"
    assert check(parse(text), RULES) == ()
    assert check(parse("Custom -> [Plan, Aggregate(node_1)]"), RULES) == ()


def test_find_and_walk():
    workflow = parse("Plan -> [Custom, Verify ? done : Revise]")
    assert [node.id for node in walk(workflow.nodes)] == [f"node_{i}" for i in range(1, 7)]
    assert isinstance(workflow.find("node_4"), Conditional)
    assert workflow.find("node_7") is None
