"""Edits written as turns read back as the same edits, strictly, however they are spaced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.workflow.edit_parser import parse_edit
from wfr.workflow.edit_text import edit_text
from wfr.workflow.edits import (
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

NAMES = st.sampled_from(["Plan", "Custom", "Verify", "AnswerGenerate"])
IDS = st.integers(1, 40).map(lambda number: f"node_{number}")
PROMPTS = st.sampled_from(["be brief", "A -> [B, C]", "3 < 4 & 5", "é ü"])
SOME = st.lists(PROMPTS, max_size=2).map(tuple)
PLACES = st.one_of(
    st.just(Place()),
    st.integers(0, 9).map(lambda number: Place(position=number)),
    IDS.map(lambda node: Place(target=node)),
)
LISTS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
MAYBE = NAMES | st.just("")
EDITS = st.one_of(
    st.builds(
        AddOperator, NAMES, PROMPTS | st.just(""), st.lists(IDS, max_size=3).map(tuple), PLACES
    ),
    st.builds(AddParallel, LISTS, SOME, PLACES),
    st.builds(AddConditional, NAMES, MAYBE, MAYBE, SOME, PLACES),
    st.builds(AddLoop, LISTS, st.integers(1, 10), MAYBE, SOME, PLACES),
    st.builds(Delete, IDS),
    st.builds(Modify, IDS, NAMES, PROMPTS | st.just("")),
    st.builds(SetPrompt, IDS, PROMPTS),
    st.builds(Finish, st.sampled_from(["", "Ulm"])),
)


@given(EDITS, st.sampled_from(["", "check"]), st.sampled_from(["", " "]))
def test_written_edits_read_back(edit, thought, space):
    parsed = parse_edit(edit_text(edit, thought, space), mode="strict")
    assert parsed.edit == edit
    assert parsed.think == thought
    assert parsed.format_faults == 0


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Finish(), "<action>finish</action>"),
        (
            AddConditional("Verify", "", "Revise"),
            "<action>add</action><structure>conditional</structure><condition>Verify</condition>"
            "<true>done</true><false>Revise</false>",
        ),
    ],
)
def test_examples(edit, text):
    assert edit_text(edit) == text
