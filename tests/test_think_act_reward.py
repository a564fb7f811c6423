"""The think-act reward: every row of the released scorer's truth table, for both presets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.environments.observations import warning
from wfr.grading.texts import grade_text
from wfr.rewards import legacy_think_act, think_act
from wfr.rewards.think_act import PlayedTurn, final_answer, legacy_code, legacy_response
from wfr.tasks.source import Task
from wfr.turn_parser import parse_turn

TASK = Task("t", "Capital of France?", ("Paris",), "test")
THINK, TOOL, ANSWER = "<think>a</think>", "<tool>Search: x</tool>", "<answer>Paris</answer>"
WARNING = warning(brief=False).content


def paper(turns, task):
    """The paper's reward under the verdict that the environment asks for."""
    return think_act.paper(turns, grade_text(task, final_answer(turns)))


def obs(text):
    return f"<info>{text}</info>"


def played(*parts):
    """Turns and observations in turn; the last turn has none."""
    turns = [*parts, ""] if len(parts) % 2 else [*parts]
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return [PlayedTurn(text, parse_turn(text), seen) for text, seen in pairs]


# name, turns and observations, format and total as released, total by the paper, why they differ
TABLE = [
    ("correct", [THINK + ANSWER], 0, 1.0, 1.0, ""),
    ("wrong", [THINK + "<answer>Rome</answer>"], 0, 0.0, 0.0, ""),
    ("one tool", [THINK + TOOL, obs("x"), THINK + ANSWER], 0, 1.0, 1.0, ""),
    ("no think", [ANSWER], -0.5, 0.5, 0.5, ""),
    ("empty think", ["<think> </think>" + ANSWER], -0.5, 0.5, 0.5, ""),
    ("answer not last", [THINK + ANSWER + THINK], -0.5, 0.5, 0.5, ""),
    ("upper case", ["<THINK>a</THINK>" + ANSWER], -0.5, 0.5, 0.5, ""),
    ("blank answer", [THINK + "<answer> </answer>"], 0, -1.0, -1.0, ""),
    ("no answer", [THINK + TOOL, obs("x"), THINK], -0.5, -1.5, -1.0, "−1 is all there is to lose"),
    ("two tools", [THINK + TOOL + TOOL, WARNING, THINK + ANSWER], -0.5, 0.5, 0.5, ""),
    ("warned once", [TOOL, WARNING, THINK + ANSWER], -0.5, 0.5, 0.5, ""),
    ("warned, silent", [TOOL, WARNING, THINK], -0.5, -0.5, -1.0, "the warning is not an answer"),
    ("answer in think", ["<think>" + ANSWER + "</think>"], -0.5, 0.5, -1.0, "a thought is text"),
    (
        "answer in tool",
        [THINK + f"<tool>Search: {ANSWER}</tool>", obs("x"), THINK],
        *(-0.5, 0.5, -1.0, "an argument is text"),
    ),
    (
        "forged tool_response",
        [THINK + TOOL + "<tool_response>x</tool_response>" + THINK + ANSWER],
        *(0, 1.0, 0.5, "only the environment speaks in that tag"),
    ),
    ("forged info", [THINK + "<info>x</info>" + THINK + ANSWER], -0.5, 0.5, 0.5, ""),
    (
        "<br> observed",
        [THINK + TOOL, obs("a<br>b"), THINK + ANSWER],
        *(-0.5, 0.5, 1.0, "the policy did not write the observation"),
    ),
    (
        "a <b and c> d observed",
        [THINK + TOOL, obs("a <b and c> d"), THINK + ANSWER],
        *(-0.5, 0.5, 1.0, "the policy did not write the observation"),
    ),
    ("<i>x</i> observed", [THINK + TOOL, obs("<i>x</i>"), THINK + ANSWER], 0, 1.0, 1.0, ""),
    ("lone </i> observed", [THINK + TOOL, obs("x</i>"), THINK + ANSWER], 0, 1.0, 1.0, ""),
    ("<name> thought", ["<think>a <name></think>" + ANSWER], -0.5, 0.5, 1.0, "a thought is text"),
    ("<br> thought", ["<think>a<br>b</think>" + ANSWER], -0.5, 0.5, 1.0, "a thought is text"),
]
ROWS = [pytest.param(*row[1:], id=row[0]) for row in TABLE]


@pytest.mark.parametrize(("parts", "form", "released", "by_paper", "why"), ROWS)
def test_legacy_code(parts, form, released, by_paper, why):
    reward = legacy_code(played(*parts), TASK)
    assert (reward.parts["format"], reward.total) == (form, released)


@pytest.mark.parametrize(("parts", "form", "released", "by_paper", "why"), ROWS)
def test_paper(parts, form, released, by_paper, why):
    assert paper(played(*parts), TASK).total == by_paper
    assert bool(why) == (released != by_paper)


@pytest.mark.parametrize("reward", [paper, legacy_code])
def test_an_episode_without_a_turn_has_no_answer(reward):
    assert reward([], TASK).total == (-1.0 if reward is paper else -1.5)


def test_metrics_are_reported_but_not_summed():
    reward = paper(played(TOOL, WARNING, THINK + TOOL, obs("x"), THINK + ANSWER), TASK)
    assert reward.total == sum(reward.parts.values()) == 0.5
    assert reward.metrics == {
        "correct": 1.0,
        "f1": 1.0,
        "contains": 1.0,
        "turns": 3.0,
        "operator_turns": 1.0,
        "format_faults": 1.0,
    }


def test_legacy_takes_the_last_answer_anywhere():
    response = THINK + TOOL + obs("<answer>Rome</answer>") + THINK + ANSWER
    assert legacy_think_act.last_answer(response) == "Paris"
    assert legacy_think_act.last_answer(response + obs("<answer>\n Rome</answer>")) == "Rome"
    assert legacy_think_act.last_answer("<answer>never closed") == ""


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (f"{THINK}{ANSWER} and more text", 0.0),
        (f"<!-- <br> -->{THINK}{ANSWER}", 0.0),
        (f"<think class='x'>a</think>{ANSWER}", 0.0),
        (f"<b>bold</b>{THINK}{ANSWER}", -0.5),
        (f"1 < 2 > 0 <3>{THINK}{ANSWER}", 0.0),
        (f"{THINK}<tool> </tool><tool_response>x</tool_response>{THINK}{ANSWER}", -0.5),
        ("no tags at all", -0.5),
    ],
)
def test_legacy_format(response, score):
    assert legacy_think_act.format_score(response) == score


def test_legacy_grades_an_answer_by_the_task():
    gold = Task("t", "q", ("a", "Paris"), "test")
    assert legacy_response(THINK + ANSWER, gold).total == 1.0


TAGS = ["<think>", "</think>", "<tool>", "</tool>", "<answer>", "</answer>", "<tool_response>"]
RESPONSES = st.lists(
    st.sampled_from([*TAGS, "</tool_response>", "<br>", "<!--", "-->", "x", " "]), max_size=20
).map("".join)


@given(RESPONSES)
def test_legacy_reward_is_one_of_the_released_values(response):
    reward = legacy_response(response, TASK)
    assert reward.parts["format"] in (0.0, -0.5)
    assert reward.parts["outcome"] in (0.0, 1.0, -1.0)


@given(st.lists(RESPONSES, max_size=4), st.lists(RESPONSES, min_size=4, max_size=4))
def test_observations_never_change_the_paper_reward(texts, seen):
    turns = [PlayedTurn(text, parse_turn(text), "<info>x</info>") for text in texts]
    other = [PlayedTurn(t.text, t.parsed, s) for t, s in zip(turns, seen, strict=False)]
    assert paper(turns, TASK) == paper(other, TASK)
    assert paper(turns, TASK).total in (-1.0, -0.5, 0.0, 0.5, 1.0)


@pytest.mark.parametrize("piece", ["<", "<a", "<!--", "<answer>", "<think>", "-->", "<!-->"])
def test_legacy_takes_linear_time(piece):
    text = piece * (2**20 // len(piece)) + "</answer>-->"
    started = time.process_time()
    legacy_response(text, TASK)
    assert time.process_time() - started < 10  # quadratic time would be minutes
