"""The rule-based backend: it reads what it is given, and says what it lacks."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.backends.base import OperatorRequest
from wfr.backends.fact_reader import read_answer, read_passages, split_question
from wfr.backends.rule_based import RuleBased
from wfr.operators.base import Scope
from wfr.operators.library import PROMPTED
from wfr.operators.prompted import PromptedOperator

RIP = "Rip Fese , job painter , home Ina , born 1904 , firm Gods , mother Vin Numo"
VIN = "Vin Numo , job singer , home Ape , born 1881"
APE = "Ape city , river Egl , mayor Zud Gede , founded 1715"
PLAIN = "Rip Fese born 1904 job painter home Ina friend Vin Numo"
TWIN = "Rip Fese , job singer , home Oro"


def ask(name, argument):
    return asyncio.run(
        PromptedOperator(PROMPTED[name], RuleBased()).call(argument, Scope("t"))
    ).text


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        ("job of Rip Fese ?", RIP, "painter"),
        ("Rip Fese's mother?", RIP, "Vin Numo"),
        ("What is the home of the mother of Rip Fese?", f"{RIP}\n{VIN}", "Ape"),
        ("Rip Fese's mother's home's river?", f"{APE}\n{RIP}\n{VIN}", "Egl"),
        ("Rip Fese's friend?", PLAIN, "Vin Numo"),
        ("home of singer Rip Fese ?", f"{RIP}\n{TWIN}", "Oro"),
        ("The singer Rip Fese's home?", f"{RIP}\n{TWIN}", "Oro"),
        ("who is older , Rip Fese or Vin Numo ?", f"{RIP}\n{VIN}", "Vin Numo"),
        ("The younger of Rip Fese and Vin Numo: job?", f"{RIP}\n{VIN}", "painter"),
        ("how many years is Rip Fese younger than Vin Numo ?", f"{RIP}\n{VIN}", "23"),
        ("Rip Fese is how many years younger than Vin Numo?", f"{RIP}\n{VIN}", "23"),
    ],
)
def test_reads_the_answer(question, text, answer):
    assert ask("AnswerGenerate", f"{question} {text}").endswith(f"AnswerGenerate answer: {answer}")


@pytest.mark.parametrize(
    ("question", "text", "missing"),
    [
        ("job of Rip Fese ?", VIN, "a passage about Rip Fese"),
        ("river of Rip Fese ?", RIP, "the river of Rip Fese"),
        ("home of mother of Rip Fese ?", RIP, "a passage about Vin Numo"),
        ("who is older , Rip Fese or Vin Numo ?", RIP, "a passage about Vin Numo"),
        ("Which dog is from Appenzell?", "The Sennenhund is a dog.", "a fact that answers"),
    ],
)
def test_says_what_is_missing(question, text, missing):
    shown = ask("AnswerGenerate", f"{question}\n{text}")
    assert f"the text lacks {missing}" in shown
    assert shown.endswith("answer: unknown")


@pytest.mark.parametrize(
    ("solution", "feedback"),
    [
        (" Painter ", "right: job of Rip Fese is painter"),
        ("baker", "wrong: job of Rip Fese is painter; so it is painter, not baker"),
    ],
)
def test_review_compares_with_the_text(solution, feedback):
    question = f"job of Rip Fese ? {RIP}"
    shown = ask("Review", f"<question>{question}</question><solution>{solution}</solution>")
    assert shown == f"Review feedback: {feedback}"


def test_review_without_the_text_points_to_the_next_look_up():
    shown = ask("Review", "<question>job of Rip Fese ?</question><solution>baker</solution>")
    assert shown == "Review feedback: cannot be checked: the text lacks a passage about Rip Fese"


def test_the_other_operators():
    question = f"job of Rip Fese ? {RIP}"
    solutions = "".join(f"<solution>{s}</solution>" for s in ("baker", "Painter", "painter"))
    assert ask("ScEnsemble", f"<query>q</query>{solutions}").endswith("answer: Painter")
    assert ask("ScEnsemble", "<query>q</query>" + solutions[:-31] * 2).startswith("ScEnsemble")
    revise = f"<question>{question}</question><solution>x</solution><feedback>no</feedback>"
    assert ask("Revise", revise).endswith("Revise answer: painter")
    assert ask("Custom", f"<task>{question}</task>") == "Custom answer: painter"
    assert ask("MultiAnswerGenerate", question).count("answer: painter") == 3
    optimised = ask("PromptOptimizer", "job of Rip Fese ?")
    assert optimised.endswith("job of Rip Fese? First find a passage about Rip Fese.")


def test_revise_keeps_a_solution_that_it_cannot_better():
    argument = "<question>why?</question><solution>x</solution><feedback>no</feedback>"
    assert ask("Revise", argument).endswith("Revise answer: x")


def test_an_operator_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="no rule for 'Test'"):
        asyncio.run(RuleBased().complete(OperatorRequest("Test", {}, "")))


PIECES = st.sampled_from(
    [*RIP.split(), *PLAIN.split(), "?", "'s ", " of ", "\n", "older", ":", "x"]
)


@given(st.lists(PIECES | st.text(max_size=4), max_size=25).map(" ".join))
def test_any_text_gets_a_reply(text):
    question, context = split_question(text)
    reading = read_answer(question, read_passages(context))
    assert bool(reading.answer) != bool(reading.missing)
    assert all(word in f"{text} {reading.answer}" for word in reading.answer.split())
