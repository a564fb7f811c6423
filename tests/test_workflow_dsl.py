"""The notation: what it accepts, what it refuses, exact round trips."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from workflow_strategies import FEW, NAMES, workflows

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.dsl import parse
from wfr.workflow.nodes import Conditional, Loop, OperatorNode, Parallel
from wfr.workflow.rules import Limits

WIDE = Limits(max_nodes=1000, max_depth=60)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "A -> [B, C] -> D",
        "C ? T : F",
        "(A -> B) * 3",
        "Plan -> Programmer -> Verify ? Revise : done -> Format",
        "Programmer -> Test ? Programmer : done -> Format",
        "[Format, Format, Format, Format] -> Verify -> Format",
        "(A) * 3 until V -> [B -> (C) * 2, D ? (E -> F) : [G, H]]",
        "A ? (B ? C : D) : done",
        "A ? done : (B) * 2",
    ],
)
def test_the_papers_notation_is_read_and_written(text):
    workflow = parse(text)
    assert workflow.to_dsl() == workflow.outline() == text


def test_ids_are_given_in_document_order():
    workflow = parse("A -> [B, C] -> D ? (E) * 2 : done")
    assert workflow.nodes == (
        OperatorNode("node_1", "A"),
        Parallel("node_2", ((OperatorNode("node_3", "B"),), (OperatorNode("node_4", "C"),))),
        Conditional(
            "node_5",
            OperatorNode("node_6", "D"),
            (Loop("node_7", (OperatorNode("node_8", "E"),), 2),),
        ),
    )
    assert workflow.next_id == 9


def test_nodes_without_id_get_ids_above_all_others():
    workflow = parse("A -> B@node_7 -> C")
    assert [node.id for node in workflow.nodes] == ["node_8", "node_7", "node_9"]
    assert workflow.next_id == 10


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A->B", "A -> B"),
        ("  A\n->\tB ", "A -> B"),
        ("(A -> B) -> C", "A -> B -> C"),
        ("((A))", "A"),
        ("A ? B", "A ? B : done"),
        ("A ? (B) : (C -> D)", "A ? B : (C -> D)"),
        ("[(A -> B), C]", "[A -> B, C]"),
        ('A{""}', "A"),
    ],
)
def test_other_ways_to_write_it(text, same):
    assert parse(text) == parse(same)


@FEW
@given(workflows())
@example(parse('A@node_2{"x"} -> B@node_1(node_2); next 9'))
def test_round_trip(workflow):
    assert parse(workflow.to_dsl(), WIDE) == workflow


@FEW
@given(workflows())
def test_the_outline_is_the_same_structure_without_the_rest(workflow):
    outline = workflow.outline()
    again = parse(outline, WIDE)
    assert again.outline() == outline
    assert [n.operator for n in again.operators] == [n.operator for n in workflow.operators]
    assert not any(node.prompt or node.inputs for node in again.operators)


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        ("A ->", Code.SYNTAX, 4),
        ("-> A", Code.SYNTAX, 0),
        ("A B", Code.SYNTAX, 2),
        ("[A]", Code.TOO_FEW_OPERATORS, -1),
        ("[A, ]", Code.SYNTAX, 4),
        ("[A, B", Code.SYNTAX, 5),
        ("(A) * x", Code.SYNTAX, 6),
        ("(A) * 0", Code.BAD_COUNT, -1),
        ("(A) * 9999999999", Code.SYNTAX, 6),
        ("(A -> B) ? C : D", Code.SYNTAX, 9),
        ("A ? done : done", Code.TOO_FEW_OPERATORS, -1),
        ("A ? B : C ? D : E", Code.SYNTAX, 10),
        ("done", Code.SYNTAX, 0),
        ("A(node_1)", Code.SELF_REFERENCE, -1),
        ("A(node_2) -> B", Code.CYCLE, -1),
        ("A(node_9)", Code.UNKNOWN_INPUT, -1),
        ("A(B)", Code.SYNTAX, 2),
        ("A{x}", Code.SYNTAX, 2),
        ('A{"x}', Code.SYNTAX, 2),
        ('A{"x"', Code.SYNTAX, 5),
        ("A@3", Code.SYNTAX, 2),
        ("@node_3 A", Code.SYNTAX, 0),
        ("@node_3 (A -> B)", Code.SYNTAX, 0),
        ("A@node_3 -> B@node_3", Code.BAD_ID, -1),
        ("A@node_3; next 3", Code.BAD_ID, -1),
        ("A; next", Code.SYNTAX, 7),
        ("A; next 5 x", Code.SYNTAX, 10),
        ("é", Code.SYNTAX, 0),
        ("(A) * ٣", Code.SYNTAX, 6),
        ("[" * 5000, Code.TOO_DEEP, 64),
        ("((((A)*2)*2)*2)*2 -> (((((A)*2)*2)*2)*2)*2", Code.TOO_DEEP, -1),
        (" -> ".join("A" * 40), Code.TOO_MANY_NODES, 160),
    ],
)
def test_what_is_no_workflow(text, code, offset):
    with pytest.raises(WorkflowError) as caught:
        parse(text)
    assert caught.value.code is code
    assert caught.value.offset == offset
    assert caught.value.message


@FEW
@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                [
                    *NAMES[:3],
                    *("->", "[", "]", "(", ")", ",", "?", ":", "*", "3", "{", '"', "}", "\\"),
                    *("@", "node_1", "node_2", ";", "next", "done", "until", " "),
                ]
            )
        ).map("".join),
    )
)
def test_any_text_is_a_workflow_or_refused_with_a_code(text):
    try:
        workflow = parse(text)
    except WorkflowError as error:
        workflow = error.code
    assert isinstance(workflow, Code) or parse(workflow.to_dsl()) == workflow


@pytest.mark.parametrize("text", ["[" * 10**6, "(" * 10**6, "A->" * 10**6, 'A{"' + "\\" * 10**6])
def test_a_megabyte_is_refused_at_once(text):
    with pytest.raises(WorkflowError):
        parse(text)
