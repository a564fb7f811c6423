"""The mixed world: three kinds of problems that a reader can solve, split by their text."""

from __future__ import annotations

import asyncio
import random

import pytest

from wfr.backends.base import OperatorRequest
from wfr.backends.mistakes import Mistakes
from wfr.backends.problem_solver import kind_of, plain, short_answer, solve, sub_problems
from wfr.backends.rule_based import RuleBased
from wfr.environments.canvas_prompts import problem_text
from wfr.grading.texts import grade_text
from wfr.operators.base import tagged
from wfr.tasks.mixed_world import MixedWorld
from wfr.tasks_config import WorldConfig

WORLD = MixedWorld(WorldConfig(questions=60), eval_tasks=36)
TASKS = [*WORLD.train(), *WORLD.held_out()]
READ = [task for task in TASKS if task.meta["problem_type"] != "code"]
PROGRAMS = [task for task in TASKS if task.meta["problem_type"] == "code"]


def passes(program, tests):
    names = {}
    exec(program, names)
    try:
        for test in tests:
            exec(test, names)
    except Exception:  # noqa: BLE001
        return False
    return True


def test_every_kind_is_there_and_held_out_evenly():
    skills = [task.skill for task in WORLD.held_out()]
    assert {skill: skills.count(skill) for skill in skills} == dict.fromkeys(
        ("hop1", "hop2", "comparison", "steps2", "steps3", "program"), 6
    )


def test_train_and_held_out_share_nothing():
    train = {task.question for task in WORLD.train()}
    assert not train & {task.question for task in WORLD.held_out()}
    assert len({task.id for task in TASKS}) == len(TASKS)


def test_a_question_never_moves_between_the_splits():
    """Another world asks some of the same questions, on the same side."""
    other = MixedWorld(WorldConfig(questions=60, seed=8))
    train = {task.question for task in WORLD.train()}
    assert not train & {task.question for task in other.held_out()}


def test_the_same_seed_draws_the_same_tasks():
    assert MixedWorld(WorldConfig(questions=60), eval_tasks=36).train() == WORLD.train()


def test_the_text_is_enough_to_answer():
    for task in READ:
        text = problem_text(task)
        assert kind_of(text) == task.meta["problem_type"]
        assert grade_text(task, solve(text).answer).correct == 1, task
        assert solve(sub_problems(text)[-1]).answer == solve(text).answer


def test_the_right_program_passes_all_tests_and_the_hidden_ones_are_others():
    for task in PROGRAMS:
        public, hidden = task.public_tests, task.tests
        program = solve(task.question).answer
        assert passes(program, public)
        assert passes(program, hidden)
        assert public
        assert not set(public) & set(hidden)


def test_a_slip_is_a_wrong_answer():
    slips = [random.Random(seed) for seed in range(3)]
    wrong = [solve(problem_text(t), slip).answer for t in READ for slip in slips]
    right = [t.answers[0] for t in READ for _ in slips]
    assert sum(map(str.__eq__, wrong, right)) < 0.02 * len(right)
    failing = [not passes(solve(t.question, s).answer, t.tests) for t in PROGRAMS for s in slips]
    assert sum(failing) > 0.8 * len(failing)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Looking at it closely, the answer is Ulm.", "Ulm"),
        ("the answer is 12", "12"),
        (" Ulm ", "Ulm"),
        ("38\n\nIt came from this program:\nprint(38)", "38"),
        ("def f(xs):\n    return 0", "def f(xs):\n    return 0"),
    ],
)
def test_conclusions(text, answer):
    assert short_answer(text) == answer
    assert plain(text) == " ".join(answer.lower().split())


QUESTION = problem_text(READ[0])


def ask(backend, operator, **inputs):
    request = OperatorRequest(operator, {key: (value,) for key, value in inputs.items()}, "")
    return asyncio.run(backend.complete(request)).text


def test_mistakes_are_a_share_and_repeat_themselves():
    backend = RuleBased(Mistakes(0.5))
    texts = [problem_text(task) for task in READ]
    rights = []
    for text, task in zip(texts, READ, strict=True):
        reply = ask(backend, "AnswerGenerate", content=text)
        assert reply == ask(RuleBased(Mistakes(0.5)), "AnswerGenerate", content=text)
        (answer,) = tagged(reply, "answer")
        rights.append(grade_text(task, answer).correct)
    assert 0.35 < sum(rights) / len(rights) < 0.7


def test_prompts_operators_and_samples_go_wrong_independently():
    mistakes = Mistakes(0.5)
    requests = [
        OperatorRequest(operator, {"content": (QUESTION,), "instruction": (f"{n}",)}, "", sample=k)
        for operator in ("Custom", "AnswerGenerate")
        for n in range(20)
        for k in range(5)
    ]
    wrong = [mistakes.slip(request, "qa") is not None for request in requests]
    assert 0.3 < sum(wrong) / len(wrong) < 0.6


def test_a_plan_helps():
    mistakes = Mistakes(0.5)
    requests = [OperatorRequest("Custom", {"task": (f"{n}",)}, "") for n in range(300)]
    alone = sum(mistakes.slip(r, "math") is not None for r in requests)
    planned = sum(mistakes.slip(r, "math", 0.6) is not None for r in requests)
    assert planned < 0.75 * alone


def test_the_executor_knows_nothing_but_the_text():
    reply = ask(RuleBased(), "AnswerGenerate", content="Eltra's seat?\nEltra seat Riga boss Al Bo")
    assert tagged(reply, "answer") == ("Riga",)


@pytest.mark.parametrize(
    ("operator", "inputs", "tag", "value"),
    [
        (
            "Verify",
            {"question": "Ada has 12 coins, buys 7: how many?", "solution": "19"},
            "is_correct",
            "true",
        ),
        (
            "Verify",
            {"question": "Ada has 12 coins, buys 7: how many?", "solution": "20"},
            "is_correct",
            "false",
        ),
        (
            "Verify",
            {"question": "Ada has 12 coins, buys 7: how many?", "solution": "20"},
            "answer",
            "19",
        ),
        (
            "Review",
            {"question": "Ada has 12 coins, buys 7: how many?", "solution": "20"},
            "review_result",
            "false",
        ),
        ("Format", {"question": "q", "solution": "Looking, the answer is 19."}, "answer", "19"),
        (
            "Programmer",
            {"problem": "Ada has 12 coins, buys 7: how many?", "analysis": ""},
            "code",
            "have = 12\nhave += 7\nprint(have)",
        ),
        (
            "Plan",
            {"problem": "Ada has 12 coins, buys 7: how many?"},
            "plan",
            "1. start with the count\n2. buys 7",
        ),
    ],
)
def test_operators_reply_with_their_tags(operator, inputs, tag, value):
    assert tagged(ask(RuleBased(), operator, **inputs), tag) == (value,)


def test_ensembles_take_the_majority():
    request = OperatorRequest(
        "Aggregate", {"query": ("q",), "solution": ("5", "the answer is 7.", "7")}, ""
    )
    reply = asyncio.run(RuleBased().complete(request)).text
    assert tagged(reply, "answer") == ("the answer is 7.",)
