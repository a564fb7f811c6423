"""Solving the embedded world's problems from their text alone, with or without a slip.

Three kinds: a question with passages, a word problem, a description of a program. The text that
follows the problem (a plan, earlier results) is read for passages only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from wfr.backends.fact_reader import (
    Passage,
    Reading,
    read_answer,
    read_passages,
    split_question,
)
from wfr.backends.program_writer import is_programming, write_program

Kind = Literal["qa", "math", "code"]

_WORD_PROBLEM = re.compile(r"^\w+ has (?P<start>\d+) \w+, (?P<events>[^:]+): how many\?")
_CONCLUSION = re.compile(r"\bthe answer is (.+?)\.?\s*$", re.DOTALL)
_MULTIPLES = {"doubles": 2, "triples": 3}


def kind_of(problem: str) -> Kind:
    """What kind of problem a text begins with."""
    text = problem.lstrip()
    if is_programming(text):
        return "code"
    return "math" if _WORD_PROBLEM.match(text) else "qa"


def solve(problem: str, slip: random.Random | None = None) -> Reading:
    """The answer with its reasons; with one mistake drawn from `slip` if given."""
    kind = kind_of(problem)
    if kind == "code":
        return Reading(write_program(problem, slip), ())
    if kind == "math":
        return _count(problem, slip)
    question, context = split_question(problem)
    passages = read_passages(context)
    reading = read_answer(question, passages)
    return reading if slip is None else _misread(reading, passages, slip)


def arithmetic_program(problem: str, slip: random.Random | None = None) -> str:
    """A program that prints the answer of a word problem."""
    lines = [f"have = {_start(problem)}"]
    lines += [f"have {sign}= {number}" for sign, number in _steps(problem, slip)]
    return "\n".join([*lines, "print(have)"])


def steps(problem: str) -> list[str]:
    """What to do one after the other; no step states a fact."""
    kind = kind_of(problem)
    if kind == "code":
        return ["choose the numbers", "change each", "fold them into one"]
    if kind == "math":
        return ["start with the count", *_events(problem)]
    question, _ = split_question(problem)
    return ["find the passage that is asked about", f"read what answers {question}?"]


def sub_problems(problem: str) -> list[str]:
    """Self-contained smaller problems, one line each; the last one is the whole problem."""
    kind = kind_of(problem)
    if kind == "code":
        whole = problem.strip().splitlines()[0]
        return [re.sub(r" (?:squared|doubled|negated)$", "", whole), whole]
    if kind == "math":
        head, events = problem.split(",")[0], _events(problem)
        return [f"{head}, {', '.join(events[:n])}: how many?" for n in sorted({1, len(events)})]
    question, context = split_question(problem)
    rest = "".join(f" | {line}" for line in context.splitlines() if line.strip())
    first, *path = question.split("'s ")
    questions = [f"{first}'s {path[0]}"] if len(path) > 1 else []
    return [f"{text}?{rest}" for text in (*questions, question)]


def short_answer(text: str) -> str:
    """What a text concludes: what follows `the answer is`, else its first paragraph.

    A program is its own conclusion.
    """
    if text.lstrip().startswith("def "):
        return text.strip()
    first = text.strip().partition("\n\n")[0]
    found = _CONCLUSION.search(first)
    return (found[1] if found else first).strip()


def same_answer(one: str, other: str) -> bool:
    """True where two texts conclude the same."""
    return plain(one) == plain(other)


def plain(text: str) -> str:
    """A conclusion without case and spacing, for comparing."""
    return " ".join(short_answer(text).lower().split())


def _start(problem: str) -> int:
    found = _WORD_PROBLEM.match(problem.lstrip())
    assert found is not None, problem
    return int(found["start"])


def _events(problem: str) -> list[str]:
    found = _WORD_PROBLEM.match(problem.lstrip())
    assert found is not None, problem
    return found["events"].split(", ")


def _steps(problem: str, slip: random.Random | None) -> list[tuple[str, int]]:
    told = [_step(event) for event in _events(problem)]
    if slip is not None:
        wrong = slip.randrange(len(told))
        sign, number = told[wrong]
        change = slip.choice(("forget", "turn", "misread"))
        if change == "forget":
            told.pop(wrong)
        elif change == "turn" and sign != "*":
            told[wrong] = ("-" if sign == "+" else "+", number)
        else:
            told[wrong] = (sign, number + slip.choice((1, 2, 10)))
    return told


def _step(event: str) -> tuple[str, int]:
    verb, what = event.split(maxsplit=1)
    if verb in _MULTIPLES:
        return "*", _MULTIPLES[verb]
    return ("+" if verb in ("buys", "finds") else "-"), int(what)


def _count(problem: str, slip: random.Random | None) -> Reading:
    have = _start(problem)
    reasons = [f"starts with {have}"]
    for sign, number in _steps(problem, slip):
        have = have * number if sign == "*" else have + (number if sign == "+" else -number)
        reasons.append(f"{sign} {number} makes {have}")
    return Reading(str(have), tuple(reasons))


def _misread(reading: Reading, passages: Sequence[Passage], slip: random.Random) -> Reading:
    """Another value of the passages in place of the right one."""
    values = {value for passage in passages for value in passage.facts.values()}
    others = sorted(values - {reading.answer})
    return Reading(slip.choice(others), ("a glance at the passages",)) if others else reading
