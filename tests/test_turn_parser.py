"""The turn parser: the grammar, its faults, and that no text can upset or slow it."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.trajectory import TurnKind
from wfr.turn_parser import Fault, parse_turn, turn_complete

THINK = "<think>a</think>"
TOOL = "<tool>Search: x</tool>"
ANSWER = "<answer>Paris</answer>"

TAGS = "<think> </think> <tool> </tool> <answer> </answer> <info> </info> <tool_response>"
NOT_TAGS = "</tool_response <br> <THINK> <tool\t> Search:x : < > </ <think answer>"
PIECES = st.sampled_from([*TAGS.split(" "), *NOT_TAGS.split(" "), " ", "é\u2028", "\x00"])
MARKUP = st.lists(PIECES | st.text(max_size=5), max_size=25).map("".join)


def test_tool_turn():
    turn = parse_turn("<think> find mother </think> <tool> Search: Rip Fese </tool>")
    assert (turn.kind, turn.fault) == (TurnKind.TOOL, None)
    assert (turn.think, turn.operator, turn.argument) == ("find mother", "Search", "Rip Fese")


def test_answer_turn():
    turn = parse_turn("<think> home Z </think>\n<answer> Z </answer>\n")
    assert (turn.kind, turn.answer, turn.fault) == (TurnKind.ANSWER, "Z", None)


def test_of_several_answers_the_last_counts():
    assert parse_turn(THINK + "<answer>Rome</answer>" + ANSWER).answer == "Paris"


def test_argument_keeps_everything_after_the_first_colon():
    turn = parse_turn(THINK + "<tool>Custom: <task>a: b</task>\n<x></answer></tool>")
    assert turn.argument == "<task>a: b</task>\n<x></answer>"


@pytest.mark.parametrize(
    ("text", "kind", "fault"),
    [
        ("", TurnKind.MALFORMED, Fault.NO_ACTION),
        ("just talk", TurnKind.MALFORMED, Fault.NO_ACTION),
        (THINK, TurnKind.MALFORMED, Fault.NO_ACTION),
        (TOOL, TurnKind.MALFORMED, Fault.NO_THINK),
        ("<think> \n</think>" + TOOL, TurnKind.MALFORMED, Fault.EMPTY_THINK),
        (THINK + THINK + TOOL, TurnKind.MALFORMED, Fault.EXTRA_THINK),
        (THINK + TOOL + TOOL, TurnKind.MALFORMED, Fault.SEVERAL_ACTIONS),
        (THINK + TOOL + THINK, TurnKind.MALFORMED, Fault.EXTRA_THINK),
        (THINK + "<tool>Search x</tool>", TurnKind.MALFORMED, Fault.BAD_CALL),
        (THINK + "<tool> : x</tool>", TurnKind.MALFORMED, Fault.BAD_CALL),
        (THINK + "<tool></tool>", TurnKind.MALFORMED, Fault.BAD_CALL),
        (THINK + "<tool>Search: x", TurnKind.MALFORMED, Fault.UNCLOSED),
        ("<think>a" + TOOL, TurnKind.MALFORMED, Fault.UNCLOSED),
        (THINK + "</think>" + TOOL, TurnKind.MALFORMED, Fault.STRAY_CLOSE),
        (THINK + "<info>x</info>" + TOOL, TurnKind.MALFORMED, Fault.FORGED_TAG),
        (THINK + "<tool name='x'>Search: x</tool>", TurnKind.MALFORMED, Fault.STRAY_CLOSE),
        ("<THINK>a</THINK>" + TOOL, TurnKind.MALFORMED, Fault.NO_THINK),
        (ANSWER, TurnKind.ANSWER, Fault.NO_THINK),
        (THINK + TOOL + ANSWER, TurnKind.ANSWER, Fault.SEVERAL_ACTIONS),
        (THINK + ANSWER + ANSWER, TurnKind.ANSWER, Fault.SEVERAL_ACTIONS),
        (THINK + ANSWER + THINK, TurnKind.ANSWER, Fault.EXTRA_THINK),
        (THINK + ANSWER + "<tool>", TurnKind.ANSWER, Fault.UNCLOSED),
        (THINK + "<tool_response>x" + THINK + ANSWER, TurnKind.ANSWER, Fault.FORGED_TAG),
    ],
)
def test_faults(text, kind, fault):
    turn = parse_turn(text)
    assert (turn.kind, turn.fault) == (kind, fault)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>the form is {TOOL} or {ANSWER}, <think> and <info>x</info> too</think>{TOOL}",
        f"<think>a <br> <name> b</think>{TOOL}",
        f"Well.{THINK} now {TOOL} <b>.",
        f"<think>a</think></thinking>{TOOL}",
    ],
)
def test_mere_text_is_no_fault(text):
    assert parse_turn(text).operator == "Search"


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        (THINK + TOOL, True),
        (THINK + ANSWER, True),
        ("no tags </tool>", True),
        ("<think>I could write <tool>Search: x</tool>", False),
        (f"<think>such as {ANSWER}", False),
        (f"<think>such as {ANSWER}</think>{TOOL}", True),
        (THINK + "<tool>Programmer: print('</answer>", False),
        (THINK + "<tool>Programmer: print('</answer>')</tool>", True),
    ],
)
def test_turn_complete(text, complete):
    assert turn_complete(text) is complete


def scan_slowly(text):
    """Names of the elements in order, and what is still open; one state, tag by tag."""
    names, state = [], None
    for piece in re.split(r"(</?(?:think|tool|answer|info|tool_response)>)", text)[1::2]:
        name = piece.strip("</>")
        if state is not None:
            state = None if piece == f"</{state}>" else state
        elif name in ("info", "tool_response"):
            names.append("forged")
        elif piece.startswith("</"):
            names.append("stray")
        else:
            names.append(name)
            state = name
    return names, state


@given(MARKUP)
def test_agrees_with_a_slow_scanner(text):
    names, still_open = scan_slowly(text)
    turn = parse_turn(text)
    assert turn_complete(text) is (still_open is None)
    if turn.fault in (None, Fault.EMPTY_THINK, Fault.BAD_CALL):
        assert names in (["think", "tool"], ["think", "answer"])
    else:
        assert names not in (["think", "tool"], ["think", "answer"]) or still_open


@given(MARKUP)
def test_kind_and_fault_agree(text):
    turn = parse_turn(text)
    assert (turn.kind is TurnKind.TOOL) == bool(turn.operator)
    assert turn.kind is not TurnKind.TOOL or (turn.fault is None and turn.think)
    assert turn.kind is not TurnKind.MALFORMED or turn.fault
    assert turn.kind is TurnKind.ANSWER or not turn.answer


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(data):
    parse_turn(data.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    "piece",
    ["<", "<think>", "</think>", "<tool>", "<answer>x", "<info>", "<think></think>", "a", "</tool"],
)
def test_a_megabyte_takes_linear_time(piece):
    text = piece * (2**20 // len(piece))
    started = time.process_time()
    parse_turn(text)
    turn_complete(text)
    assert time.process_time() - started < 5  # quadratic time would be minutes
