"""Turns on a canvas: one turn per edit, or a prompt in a turn of its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_strategies import FEW, RULES, soups, turns

from wfr.workflow.codes import Code
from wfr.workflow.dsl import parse
from wfr.workflow.edits import Applied, Refused
from wfr.workflow.protocol import Finished, PromptWanted, State, take

ADD = "<action>add</action><operator>Plan</operator>"
PARALLEL = (
    "<action>add</action><structure>parallel</structure><operators>Custom,Programmer</operators>"
)


def play(*texts, protocol="two_turn", state=State()):  # noqa: B008
    outcomes = []
    for text in texts:
        taken = take(state, text, RULES, protocol=protocol)
        state = taken.state
        outcomes.append(taken)
    return state, outcomes


def kinds(outcomes):
    return [type(taken.outcome) for taken in outcomes]


def test_one_turn_adds_with_its_prompt():
    state, (taken,) = play(ADD + "<prompt>be brief</prompt>", protocol="one_turn")
    assert taken.edited
    assert state.workflow == parse('Plan{"be brief"}')


def test_a_refused_turn_changes_nothing():
    state, (_, taken) = play(ADD, "<action>delete</action><target>node_7</target>")
    state, (_, taken) = play(
        ADD, "<action>delete</action><target>node_7</target>", protocol="one_turn"
    )
    assert state.workflow == parse("Plan")
    assert taken.outcome.code is Code.UNKNOWN_NODE
    assert not taken.edited
    _, (taken,) = play("what?", protocol="one_turn")
    assert taken.outcome.code is Code.NO_ACTION
    assert taken.outcome.hint


def test_two_turns_for_an_operator():
    state, outcomes = play(ADD + "<prompt>ignored</prompt>")
    assert kinds(outcomes) == [PromptWanted]
    assert (state.workflow, state.awaiting) == (parse(""), "Plan")
    state, outcomes = play("be brief", state=state)
    assert kinds(outcomes) == [Applied]
    assert (state.workflow, state.awaiting) == (parse('Plan{"be brief"}'), "")


def test_a_structure_stands_at_once_and_asks_for_each_prompt():
    state, outcomes = play(PARALLEL)
    assert state.workflow == parse("[Custom, Programmer]")
    assert state.awaiting == "Custom"
    state, more = play("solve it", "no", "code it", state=state)
    assert kinds([*outcomes, *more]) == [PromptWanted, PromptWanted, Refused, Applied]
    assert [taken.edited for taken in more] == [False, False, True]
    assert state.workflow == parse('[Custom{"solve it"}, Programmer{"code it"}]')


def test_whatever_follows_is_the_prompt():
    state, outcomes = play(ADD, "<think>hm</think>", "<action>finish</action>", "ok then")
    assert kinds(outcomes) == [PromptWanted, Refused, Refused, Applied]
    assert [taken.outcome.code for taken in outcomes[1:3]] == [Code.AWAITING_PROMPT] * 2
    assert state.workflow == parse('Plan{"ok then"}')


def test_modify_swaps_when_the_prompt_is_there():
    modify = "<action>modify</action><target>node_1</target><operator>Custom</operator>"
    state, _ = play(ADD, "be brief", modify)
    assert state.workflow == parse('Plan{"be brief"}')
    assert state.awaiting == "Custom"
    state, _ = play("do it now", state=state)
    assert state.workflow == parse('Custom{"do it now"}')


@pytest.mark.parametrize("protocol", ["one_turn", "two_turn"])
def test_what_needs_no_prompt_takes_one_turn(protocol):
    state = State(parse("Plan -> Custom"))
    texts = (
        "<action>delete</action><target>node_1</target>",
        "<action>set_prompt</action><target>node_2</target><prompt>be brief</prompt>",
        "<action>finish</action><answer>42</answer>",
    )
    state, outcomes = play(*texts, protocol=protocol, state=state)
    assert kinds(outcomes) == [Applied, Applied, Finished]
    assert outcomes[-1].outcome.answer == "42"
    assert state.workflow.outline() == "Custom"


@pytest.mark.parametrize("text", ["", ADD, PARALLEL])
def test_an_add_that_is_refused_asks_for_no_prompt(text):
    state, outcomes = play(text.replace("Plan", "plan").replace("Custom", "custom"))
    assert kinds(outcomes) == [Refused]
    assert state == State()


@FEW
@given(
    st.lists(turns() | soups, max_size=8),
    st.sampled_from(["one_turn", "two_turn"]),
    st.sampled_from(["strict", "tolerant"]),
)
def test_any_turns_give_an_outcome_and_a_state_that_can_be_kept(texts, protocol, mode):
    state = State()
    for text in texts:
        taken = take(state, text, RULES, protocol=protocol, mode=mode)
        if isinstance(taken.outcome, Refused | Finished):
            assert taken.state == state
        if protocol == "one_turn":
            assert not taken.state.awaiting
        state = taken.state
        assert State.from_json(json.loads(json.dumps(state.to_json()))) == state
