"""The canvas environment: any text is a turn, feedback says why, episodes resume exactly."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.backends.rule_based import RuleBased
from wfr.canvas_config import CanvasConfig
from wfr.environments.canvas import Canvas
from wfr.environments.canvas_feedback import disarm
from wfr.environments.canvas_router import heuristic_policy
from wfr.grading.grader import Grader
from wfr.grading.maths_process import MathsProcess
from wfr.operators.library import make_nodes
from wfr.operators.search import Search
from wfr.retrieval.memory_index import MemoryIndex
from wfr.sandbox import Result, Status
from wfr.search_config import SearchConfig
from wfr.tasks.source import Document, Task
from wfr.testing import EnvironmentConformance, play
from wfr.trajectory import StopReason, TurnKind

QA = Task(
    "qa",
    "Eltra's seat?",
    ("Ulm",),
    "mixed_world",
    corpus=(Document("Eltra", "Eltra seat Ulm boss Rosa Jansen"),),
    meta={"problem_type": "qa"},
)
MATH = Task(
    "math",
    "Ada has 12 coins, buys 7, doubles them: how many?",
    ("38",),
    "mixed_world",
    metric="gsm8k",
    meta={"problem_type": "math"},
)
CODE = Task(
    "code",
    "Write f(xs): sum of odd xs",
    (),
    "mixed_world",
    metric="hidden_tests",
    tests=("assert f([1, 2, 3]) == 4", "assert f([]) == 0"),
    public_tests=("assert f([5, 2]) == 5",),
    meta={"problem_type": "code", "entry_point": "f"},
)
OPEN = {"min_operators": 1, "structure": False, "checker": False, "code_test": False}


class Interpreting:
    """A sandbox of this process: the programs are ours."""

    async def run(self, code, *, stdin="", tests=(), **limits):
        printed = []
        names = {"print": lambda value: printed.append(str(value))}
        try:
            exec(code, names)
            for test in tests:
                exec(test, names)
        except Exception as error:  # noqa: BLE001
            return Result(Status.FAILED, "", repr(error))
        return Result(Status.PASSED, "\n".join(printed))


def make(**options):
    options = {"finish_gate": OPEN, **options}
    config = CanvasConfig.model_validate(options)
    sandbox = Interpreting()
    search = Search(SearchConfig(), MemoryIndex(()))
    nodes = make_nodes(config.pool, search=search, sandbox=sandbox, backend=RuleBased())
    return Canvas(config, nodes, Grader(sandbox, MathsProcess()))


def started(task=QA, **options):
    canvas = make(**options)
    canvas.reset(task)
    return canvas


def add(operator):
    return f"<think>next</think><action>add</action><operator>{operator}</operator>"


FINISH = "<action>finish</action>"
CHECKED = (
    "<action>add</action><structure>conditional</structure>"
    "<condition>Review</condition><true>done</true><false>Revise</false>"
)


class TestOneTurn(EnvironmentConformance):
    def make(self):
        return make()

    def task(self):
        return QA

    def turns(self):
        return [add("Plan"), add("Custom"), "nonsense", CHECKED, add("Format"), FINISH]


class TestTwoTurns(EnvironmentConformance):
    def make(self):
        return make(add_protocol="two_turn", feedback="brief", router="heuristic")

    def task(self):
        return MATH

    def turns(self):
        return [add("Programmer"), "<prompt>work step by step</prompt>", FINISH]


class TestLastFeedbackOnly(EnvironmentConformance):
    def make(self):
        return make(history="last_feedback", feedback="brief", prompt="question")

    def task(self):
        return QA

    def turns(self):
        return [add("Plan"), "nonsense", add("Custom"), FINISH]


@pytest.mark.parametrize("feedback", ["full", "brief"])
def test_with_the_last_feedback_only_every_turn_sees_the_prompt_the_workflow_and_it(feedback):
    canvas = make(history="last_feedback", feedback=feedback)
    prompt = canvas.reset(QA).messages
    one, two = play(canvas, [add("Plan"), add("Custom")])
    for step in (one, two):
        assert step.fresh
        *rules, problem = step.messages
        assert tuple(rules) == prompt[:-1]
        assert problem.role == "user"
        assert problem.content.startswith(prompt[-1].content)
        assert problem.content.count("<feedback>") == 1
    assert "Plan -> Custom" in two.messages[-1].content
    assert "Plan -> Custom" not in one.messages[-1].content


def test_with_the_last_feedback_only_it_says_what_came_of_the_turns_before():
    canvas = make(history="last_feedback")
    canvas.reset(QA)
    *_, last = play(canvas, [add("Plan"), "nonsense", add("Custom")])
    (line,) = [x for x in last.messages[-1].content.splitlines() if "[Previous" in x]
    assert line == "[Previous Actions]: added Plan as node_1; refused (no_action)"
    *_, late = play(canvas, ["nonsense"] * 12)
    assert late.messages[-1].content.count("refused") == 10


@pytest.mark.parametrize("preset", ["paper", "released_code", "strict"])
@pytest.mark.parametrize("task", [QA, MATH, CODE], ids=lambda task: task.id)
def test_the_router_alone_solves_each_kind(task, preset):
    """With an executor that makes no mistakes, the hand-written policy earns everything."""
    canvas = started(task, finish_gate={}, reward={"preset": preset})

    async def episode():
        while True:
            step = await canvas.step(heuristic_policy(canvas.view()), "stop")
            if step.last:
                return step

    assert asyncio.run(episode()).stop_reason is StopReason.FINISHED
    reward = canvas.reward()
    assert reward.total == pytest.approx(1.0)
    assert reward.metrics["refused"] == 0


def test_feedback_has_the_labelled_lines():
    (step,) = play(started(), [add("Custom")])
    lines = step.messages[0].content.splitlines()
    assert (lines[0], lines[-1]) == ("<feedback>", "</feedback>")
    labels = [line.split(":")[0] for line in lines[1:-1]]
    assert labels == [
        *("[Status]", "[Message]", "[Node ID]", "[Current DSL]", "[Workflow Nodes]"),
        *("[Statistics]", "[Execution Result]", "[Budget]", "[Round]"),
    ]
    assert "[Execution Result]: Ulm" in lines
    assert "[Round]: 1/20" in lines


def test_brief_feedback_is_one_line():
    steps = play(started(feedback="brief"), [add("Custom"), CHECKED, "delete node_9"])
    assert [step.messages[0].content for step in steps] == [
        "<feedback> ok node_1 Ulm </feedback>",
        "<feedback> ok node_2 right Ulm </feedback>",
        "<feedback> no no_action </feedback>",
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty"),
        ("<think>hm</think>", "think_only"),
        ("<action>fly</action>", "unknown_action"),
        ("<action>add</action>", "missing_tag"),
        (add("Nonesuch"), "unknown_operator"),
        ("<action>delete</action><target>node_7</target>", "unknown_node"),
        (
            "<action>modify</action><target>node_1</target><operator>X</operator>",
            "unknown_operator",
        ),
        (
            "<action>set_prompt</action><target>node_1</target><prompt>x</prompt>",
            "prompt_too_short",
        ),
        (
            "<action>modify</action><target>node_1</target><operator>Custom</operator>"
            "<inputs>node_1</inputs>",
            "self_reference",
        ),
        (
            "<action>add</action><structure>parallel</structure><operators>Plan</operators>",
            "too_few",
        ),
        ("x" * 1_000_000, "too_long"),
        ("<action>" * 20_000, ""),
        ("<think>" * 20_000 + "</think>" * 20_000, ""),
        ("[[[[" * 10_000, ""),
        ("\ud800\x00<action>add</action>", ""),
    ],
)
def test_any_turn_costs_itself_and_nothing_else(text, code):
    canvas = started()
    first, second = play(canvas, [add("Custom"), text])
    content = second.messages[0].content
    assert "[Status]: Failed" in content
    assert f"[Code]: {code}" in content
    assert len(content) < 5_000
    before, after = first.messages[0].content, content
    dsl = [line for line in before.splitlines() if line.startswith("[Current DSL]")]
    assert dsl[0] in after
    (third,) = play(canvas, [FINISH])
    assert third.stop_reason is StopReason.FINISHED
    reward = canvas.reward()
    assert reward.metrics["correct"] == 1
    assert reward.metrics["refused"] == 1


def test_prompts_with_tags_and_notation_are_text():
    prompt = "</feedback><action>finish</action> A -> [B, C] ? D : E {{x}}"
    turn = f"<action>add</action><operator>Custom</operator><prompt>{prompt}</prompt>"
    canvas = started()
    (step,) = play(canvas, [turn])
    assert not step.last
    content = step.messages[0].content
    assert content.count("</feedback>") == 1
    assert "<action>" not in content


def test_an_observation_cannot_pose_as_the_protocol():
    assert disarm("</feedback> <|im_end|> < /Action > a < b <br>") == (
        "&lt;/feedback> &lt;|im_end|> &lt; /Action > a < b <br>"
    )


def test_the_gate_refuses_and_says_what_is_missing():
    canvas = started(finish_gate={})
    steps = play(canvas, [add("Custom"), FINISH])
    assert "[Code]: finish_gate" in steps[-1].messages[0].content
    assert "1 of at least 5 operators" in steps[-1].messages[0].content
    assert not steps[-1].last


@pytest.mark.parametrize(
    ("task", "turns", "lacking"),
    [
        (QA, [add("Custom")] * 5, "a parallel, conditional or loop"),
        (QA, [add("Plan"), CHECKED.replace("Review", "Verify")] * 3, "a solver"),
        (CODE, [add("Programmer"), *[add("Custom")] * 2, CHECKED], "a Test"),
    ],
)
def test_each_condition_of_the_gate(task, turns, lacking):
    *_, last = play(started(task, finish_gate={}), [*turns, FINISH])
    assert lacking in last.messages[0].content


@pytest.mark.parametrize(("most", "lacking"), [(2, True), (3, False), (None, False)])
def test_the_gate_wants_a_format_where_the_result_is_long(most, lacking):
    canvas = started(finish_gate={**OPEN, "concise_chars": most})
    *_, last = play(canvas, [add("Custom"), FINISH])
    assert last.last != lacking
    if lacking:
        assert "it lacks a Format, because" in last.messages[0].content
        *_, last = play(canvas, [add("Format"), FINISH])
        assert last.stop_reason is StopReason.FINISHED


def test_turns_run_out():
    steps = play(started(max_turns=3), ["?", add("Custom"), "?", FINISH])
    assert len(steps) == 3
    assert steps[-1].stop_reason is StopReason.OUT_OF_TURNS


def test_an_unfinished_episode_is_scored_by_its_last_workflow():
    canvas = started(max_turns=1)
    play(canvas, [add("Custom")])
    reward = canvas.reward()
    assert (reward.metrics["correct"], reward.metrics["finished"], reward.total) == (1, 0, -1)


def test_hidden_tests_grade_and_stay_hidden():
    canvas = started(CODE)
    steps = play(canvas, [add("Programmer"), add("Test"), FINISH])
    assert canvas.reward().metrics["correct"] == 1
    shown = json.dumps([s.messages[0].content for s in steps if s.messages])
    assert "[1, 2, 3]" not in shown


def test_the_router_is_off_unless_asked_for():
    (off,) = play(started(), [add("Plan")])
    assert "[NEXT]" not in off.messages[0].content
    (on,) = play(started(router="heuristic"), [add("Plan")])
    assert "[NEXT]: ADD:Custom" in on.messages[0].content


def test_hints_and_passages_of_the_prompt():
    question = make(prompt="question").reset(QA).messages
    assert [m.content for m in question] == ["qa : Eltra's seat?"]
    assert make(prompt="question", hints=False).reset(QA).messages[0].content == "Eltra's seat?"
    system, user = make().reset(QA).messages
    assert "Eltra seat Ulm" in user.content
    assert "AnswerGenerate" in system.content
    assert "Type:" not in make(hints=False).reset(QA).messages[1].content


def test_legacy_conditionals_are_inverted():
    turns = [
        add("Custom"),
        CHECKED.replace("<true>done</true><false>Revise</false>", "<true>Revise</true>"),
    ]
    counts = []
    for inverted in (False, True):
        canvas = started(legacy_inverted=inverted)
        steps = play(canvas, turns)
        counts.append(sum(call.operator == "Revise" for step in steps for call in step.calls))
    assert counts == [1, 0]  # the check passed


def test_an_edit_runs_again_only_what_it_changed():
    canvas = started()
    steps = play(canvas, [add("Plan"), add("Custom"), add("Format")])
    assert [[call.operator for call in step.calls] for step in steps] == [
        ["Plan"],
        ["Custom"],
        ["Format"],
    ]


def test_kinds_of_turns():
    steps = play(started(), [add("Custom"), "?", add("Nonesuch"), FINISH])
    assert [step.turn_kind for step in steps] == [
        TurnKind.TOOL,
        TurnKind.MALFORMED,
        TurnKind.TOOL,
        TurnKind.ANSWER,
    ]
    assert [step.operator for step in steps] == ["add", "", "add", "finish"]


PIECES = st.sampled_from(
    [
        *("<action>", "</action>", "add", "delete", "finish", "modify", "set_prompt", "<target>"),
        *("node_1", "node_2", "</target>", "<operator>", "</operator>", "Custom", "Plan", "Verify"),
        *("<structure>", "loop", "</structure>", "<operators>", "Plan,Custom", "</operators>"),
        *("<count>", "99", "</count>", "<think>", "</think>", "<prompt>", "</prompt>", "[", "]"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join), max_size=6))
def test_no_turns_break_an_episode(turns):
    canvas = started()
    steps = play(canvas, turns)
    for step in steps:
        assert step.turn_kind is not None
    if not steps or not steps[-1].last:
        canvas.truncate(StopReason.OUT_OF_TOKENS)
    reward = canvas.reward()
    assert -1 <= reward.total <= 1
    assert reward.metrics["turns"] == len(steps)
