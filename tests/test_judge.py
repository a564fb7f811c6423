"""The judge: raises and lowers, stores what it decided, and takes no orders from an answer."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.backends.base import Completion
from wfr.backends.spending import charged_to, current_account
from wfr.config import ConfigError, parse_config
from wfr.grading.base import Grade
from wfr.grading.judge import JudgedGrader
from wfr.tasks.source import Task

TASK = Task("t", "Who wrote it?", ("Ada Byron", "Ada Lovelace"), "books")


class Rule:
    """Exact match."""

    async def grade(self, task, answer):
        return Grade(float(answer in task.answers), {"f1": 0.5})


class Model:
    """Replies in turn, and keeps what it was asked and who would have paid."""

    name = "model"

    def __init__(self, *replies):
        self.replies = list(replies)
        self.asked, self.accounts = [], []

    async def complete(self, request):
        self.asked.append(request)
        self.accounts.append(current_account())
        reply = self.replies.pop(0)
        return reply if isinstance(reply, Completion) else Completion(reply)


def judge(answer, *replies, task=TASK):
    model = Model(*replies)
    return asyncio.run(JudgedGrader(Rule(), model).grade(task, answer)), model


@pytest.mark.parametrize(("answer", "rule"), [("Ada Lovelace", 1.0), ("Lady Lovelace", 0.0)])
@pytest.mark.parametrize("verdict", [True, False])
def test_it_raises_and_lowers_and_keeps_both_verdicts(answer, rule, verdict):
    grade, model = judge(answer, f"<verdict>{verdict}</verdict>")
    assert grade.correct == float(verdict)
    assert grade.metrics == {
        "f1": 0.5,
        "rule": rule,
        "judge": float(verdict),
        "undecided": 0.0,
    }
    (request,) = model.asked
    assert (request.operator, request.temperature) == ("Judge", 0.0)


@pytest.mark.parametrize(
    "reply",
    [
        "It is right.",
        "<verdict>maybe</verdict>",
        "<verdict>true</verdict><verdict>false</verdict>",
        Completion("no", status="refused"),
        Completion("<verdict>true</verdict>", status="cut"),
    ],
)
def test_without_a_decision_the_rule_decides_and_it_is_counted(reply):
    grade, model = judge("Ada Lovelace", reply, reply)
    assert grade.correct == 1.0
    assert grade.metrics == {"f1": 0.5, "rule": 1.0, "undecided": 1.0}
    assert len(model.asked) == 2


def test_it_is_asked_once_more_before_it_counts_as_undecided():
    grade, model = judge("x", "hm", "<verdict> TRUE </verdict>")
    assert (grade.correct, grade.metrics["undecided"]) == (1.0, 0.0)
    assert model.asked[1].prompt.startswith(model.asked[0].prompt)


def test_programs_and_blanks_are_not_judged():
    tested = Task("t", "q", (), "s", metric="hidden_tests")
    assert judge("def f(): pass", task=tested)[1].asked == []
    assert judge(" ")[1].asked == []


def test_verdicts_are_kept():
    model = Model("<verdict>true</verdict>")
    grader = JudgedGrader(Rule(), model)

    async def main():
        return [await grader.grade(TASK, "x") for _ in range(3)]

    assert [grade.correct for grade in asyncio.run(main())] == [1.0] * 3
    assert len(model.asked) == 1


def test_the_episode_does_not_pay():
    async def main():
        with charged_to("books") as episode:
            model = Model("<verdict>true</verdict>")
            await JudgedGrader(Rule(), model).grade(TASK, "x")
            assert model.accounts[0] is not episode
            assert model.accounts[0].source == "books"

    asyncio.run(main())


texts = st.text(max_size=30) | st.from_regex(r"----- [0-9a-f]{24}", fullmatch=True)


@given(texts, texts.filter(str.strip))
def test_an_answer_cannot_leave_its_place(question, answer):
    """Whatever it holds, it stands between the last two of the request's six marks."""
    task = Task("t", question, ("gold",), "s")
    _, model = judge(answer, "<verdict>false</verdict>", task=task)
    prompt = model.asked[0].prompt
    mark = re.findall(r"lines that read (----- [0-9a-f]{24})\.", prompt)[0]
    parts = prompt.split(f"\n{mark}\n")
    assert len(parts) == 7
    assert (parts[1], parts[3], parts[5]) == (question, "gold", answer)


def test_the_same_answer_is_the_same_request():
    one, two = (judge("x", "<verdict>true</verdict>")[1].asked[0] for _ in range(2))
    assert one == two


def test_a_rule_based_backend_judges_nothing():
    with pytest.raises(ConfigError, match=r"grading\.judge=true.*'rule_based'.*operators\.Judge"):
        parse_config({"grading": {"judge": True}})
