"""Turns into edits: the grammar, strict and tolerant, and what no text can do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_strategies import FEW, NAMES, prompts, soups, turns

from wfr.workflow.codes import Code
from wfr.workflow.edit_parser import MAX_CHARS, Tolerance, parse_edit, parse_prompt
from wfr.workflow.edit_scanner import scan
from wfr.workflow.edits import (
    ACTIONS,
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Delete,
    Finish,
    Modify,
    Place,
    SetPrompt,
)


def tags(*pairs, **more):
    named = [*pairs, *more.items()]
    return "".join(f"<{name}>{value}</{name}>" for name, value in named)


def structure(kind, *pairs, **more):
    return tags(("action", "add"), ("structure", kind), *pairs, **more)


LEGAL = [
    (tags(action="add", operator="Plan"), AddOperator("Plan")),
    (tags(action="add", operator="Plan", prompt="think"), AddOperator("Plan", "think")),
    (
        tags(action="add", operator="Plan", position="0", inputs="node_1, node_2"),
        AddOperator("Plan", inputs=("node_1", "node_2"), place=Place(0)),
    ),
    (
        tags(action="add", operator="Plan", target="node_3"),
        AddOperator("Plan", place=Place(target="node_3")),
    ),
    (structure("parallel", operators="A,B, C"), AddParallel(("A", "B", "C"))),
    (
        structure("parallel", ("operators", "A,B"), ("prompt", "one"), ("prompt", "two")),
        AddParallel(("A", "B"), ("one", "two")),
    ),
    (
        structure("conditional", ("condition", "Verify"), ("true", "done"), ("false", "Revise")),
        AddConditional("Verify", "", "Revise"),
    ),
    (
        structure("conditional", ("condition", "Verify"), ("true", "Format")),
        AddConditional("Verify", "Format", ""),
    ),
    (structure("loop", operators="A,B"), AddLoop(("A", "B"), 3)),
    (structure("loop", operators="A", count="5", until="V"), AddLoop(("A",), 5, "V")),
    (tags(action="delete", target="node_2"), Delete("node_2")),
    (tags(action="modify", target="node_2", operator="B"), Modify("node_2", "B")),
    (tags(action="set_prompt", target="node_2", prompt="x < y"), SetPrompt("node_2", "x < y")),
    (tags(action="finish"), Finish()),
    (tags(action="finish", answer="a [b] <c>"), Finish("a [b] <c>")),
]


@pytest.mark.parametrize("mode", ["strict", "tolerant"])
@pytest.mark.parametrize(("text", "edit"), LEGAL)
def test_the_grammar(text, edit, mode):
    parsed = parse_edit(f"<think>so</think>\n{text}\n", mode=mode)
    assert (parsed.edit, parsed.think, parsed.tolerated) == (edit, "so", ())
    assert parsed.format_faults == 0


def test_all_eight_actions_are_in_the_grammar():
    assert {edit.action for _, edit in LEGAL} == set(ACTIONS)
    assert len(ACTIONS) == 8


ADD = tags(action="add", operator="Plan")


@pytest.mark.parametrize(
    ("text", "edit", "tolerance"),
    [
        ("<Action>add</ACTION><operator>Plan</operator>", AddOperator("Plan"), "TAG_FORM"),
        ("< action>add</ action ><operator>Plan</operator>", AddOperator("Plan"), "TAG_FORM"),
        ("[action]add[/action]<operator>Plan[/operator]", AddOperator("Plan"), "TAG_FORM"),
        ("<action>ADD</action><operator>Plan</operator>", AddOperator("Plan"), "TAG_FORM"),
        (f"```xml\n{ADD}\n```", AddOperator("Plan"), "CODE_FENCE"),
        (f"I add a plan. {ADD}", AddOperator("Plan"), "STRAY_TEXT"),
        (f"<b>{ADD}</b>", AddOperator("Plan"), "UNKNOWN_TAG"),
        (ADD + "<count>3</count>", AddOperator("Plan"), "UNKNOWN_TAG"),
        ("<action>add<operator>Plan</operator>", AddOperator("Plan"), "UNCLOSED_TAG"),
        (ADD + "<prompt>go on", AddOperator("Plan", "go on"), "UNCLOSED_TAG"),
        (ADD + "</prompt>", AddOperator("Plan"), "UNCLOSED_TAG"),
        (ADD + tags(action="finish"), AddOperator("Plan"), "SEVERAL_ACTIONS"),
        (ADD + "<operator>Custom</operator>", AddOperator("Plan"), "DUPLICATE_TAG"),
        (structure("parallel", operators="A;B C"), AddParallel(("A", "B", "C")), "LIST_SEPARATOR"),
        (structure("loop", operators="A", count="99"), AddLoop(("A",), 10), "BAD_COUNT"),
        (structure("loop", operators="A", count="0"), AddLoop(("A",), 1), "BAD_COUNT"),
        (tags(action="parallel", operators="A,B"), AddParallel(("A", "B")), "UNKNOWN_ACTION"),
        ("So let's finish.", Finish(), "NO_ACTION"),
        ("<think>Custom? no</think>I use plan now", AddOperator("Plan"), "NO_ACTION"),
    ],
)
def test_each_tolerance(text, edit, tolerance):
    parsed = parse_edit(text, operators=NAMES)
    assert parsed.edit == edit
    assert parsed.tolerated == (Tolerance[tolerance],)
    assert parsed.format_faults == 1
    strict = parse_edit(text, mode="strict", operators=NAMES)
    assert (strict.edit, strict.code) == (None, Code[tolerance])
    assert strict.message
    assert strict.format_faults == 1


def test_every_tolerance_is_tested_and_documented():
    marks = test_each_tolerance.pytestmark[0].args[1]
    assert {case[2] for case in marks} == {tolerance.name for tolerance in Tolerance}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.EMPTY),
        (" \n", Code.EMPTY),
        ("<think>what now?</think>", Code.THINK_ONLY),
        ("<think>what now? <action>add</action>", Code.THINK_ONLY),
        ("I do not know", Code.NO_ACTION),
        ("Plan or Custom?", Code.AMBIGUOUS_OPERATOR),
        ("<action>jump</action>", Code.UNKNOWN_ACTION),
        (structure("spiral"), Code.UNKNOWN_STRUCTURE),
        (tags(action="add"), Code.MISSING_TAG),
        (tags(action="add", operator=" "), Code.MISSING_TAG),
        (tags(action="delete"), Code.MISSING_TAG),
        (tags(action="modify", target="node_1"), Code.MISSING_TAG),
        (tags(action="set_prompt", target="node_1"), Code.MISSING_TAG),
        (structure("conditional", condition="Verify"), Code.MISSING_TAG),
        (structure("parallel"), Code.MISSING_TAG),
        (tags(action="add", operator="Plan -> Custom"), Code.BAD_VALUE),
        (structure("parallel", operators="[A, B]"), Code.BAD_VALUE),
        (tags(action="add", operator="Plan", position="first"), Code.BAD_VALUE),
        (tags(action="add", operator="Plan", position="9" * 5000), Code.BAD_VALUE),
        (structure("loop", operators="A", count="many"), Code.BAD_VALUE),
        ("x" * (MAX_CHARS + 1), Code.TOO_LONG),
    ],
)
def test_what_cannot_be_read(text, code):
    parsed = parse_edit(text, operators=NAMES)
    assert (parsed.edit, parsed.code, parsed.format_faults) == (None, code, 1)
    assert parsed.message


def test_tags_in_free_text_are_text():
    prompt = "write <action>finish</action>, [/prompt] and </think> into <answer>"
    text = tags(think="<action>delete</action>", action="add", operator="Plan", prompt=prompt)
    parsed = parse_edit(text, mode="strict")
    assert parsed.edit == AddOperator("Plan", prompt)
    assert parsed.think == "<action>delete</action>"


@FEW
@given(prompts)
def test_a_prompt_arrives_as_it_is_written(prompt):
    text = tags(action="set_prompt", target="node_1", prompt=prompt)
    parsed = parse_edit(text)
    if "</prompt>" in prompt:
        assert parsed.edit == SetPrompt("node_1", prompt.split("</prompt>")[0].strip())
    else:
        assert parsed.edit == SetPrompt("node_1", prompt.strip())


@FEW
@given(turns() | soups | st.text(), st.sampled_from(["strict", "tolerant"]))
def test_any_text_is_an_edit_or_refused_with_a_code(text, mode):
    parsed = parse_edit(text, mode=mode, operators=NAMES)
    assert (parsed.edit is None) == (parsed.code is not None)
    assert parsed.format_faults >= (0 if parsed.edit else 1)
    if mode == "strict":
        assert parsed.tolerated == ()


@FEW
@given(turns() | soups)
def test_what_strict_accepts_tolerant_reads_alike(text):
    strict = parse_edit(text, mode="strict", operators=NAMES)
    tolerant = parse_edit(text, operators=NAMES)
    if strict.edit is not None:
        assert tolerant == strict
    elif tolerant.edit is not None:
        assert strict.code in set(tolerant.tolerated) | {Code.BAD_COUNT}


@FEW
@given(soups)
def test_the_scanner_loses_no_free_text_and_invents_none(text):
    found = scan(text)
    for element in found.elements:
        assert element.value in text
    assert sum(len(e.value) for e in found.elements) <= len(text)


@pytest.mark.parametrize(
    "bomb",
    [
        *("<action>", "<prompt>", "</prompt>", "<action></prompt>", "<think><prompt>", "[ ", "<"),
        *("```", "<    ", "<action><operator>", "<prompt></answer>", "let's ", "<x"),
    ],
)
def test_a_megabyte_of_markup_costs_linear_time(bomb, monkeypatch):
    monkeypatch.setattr("wfr.workflow.edit_parser.MAX_CHARS", 10**9)
    parsed = parse_edit(bomb * (10**6 // len(bomb)), operators=NAMES)
    assert parsed.edit is None


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("<prompt>say why</prompt>", "say why"),
        ("<think>hm</think><prompt>say why</prompt> then", "say why"),
        ("<think>hm</think> say why ", "say why"),
        ("<action>finish</action>say why<operator>Plan</operator>", "say why"),
    ],
)
def test_a_turn_that_has_to_be_a_prompt(text, prompt):
    assert parse_prompt(text, "node_1").edit == SetPrompt("node_1", prompt)


@pytest.mark.parametrize("text", ["", "<think>hm</think>", "<think>hm", "<action>finish</action>"])
def test_a_turn_that_has_to_be_a_prompt_and_is_none(text):
    assert parse_prompt(text, "node_1").code is Code.AWAITING_PROMPT
