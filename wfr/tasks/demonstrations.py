"""Scripted demonstrations: how a director could answer a question, well or badly.

Each skill is demonstrated well in a share of the cases only, and otherwise in a way that reads
like a plausible mistake. So the supervised start teaches the protocol, reading and copying, and
leaves the choice of the strategy to reinforcement learning. Thoughts repeat what was just read in
the passage's own words, which is what makes values learnable to copy for a very small model.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping

from wfr.tasks.questions import SKILLS, Question, draw_question
from wfr.tasks.world import Entity, World
from wfr.trajectory import Message

GOOD_SHARE: Mapping[str, float] = {
    "hop1": 0.9,
    "hop2": 0.5,
    "hop3": 0.25,
    "comparison": 0.3,
    "arithmetic": 0.3,
    "misleading": 0.3,
}
"""Share of demonstrations that are good, per skill."""
NOISE_SHARE = 0.08
"""Share of demonstrations whose last turn breaks the format."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demonstration:
    """One transcript; `good` tells whether it shows the right way to answer."""

    skill: str
    good: bool
    messages: tuple[Message, ...]


def demonstrate(world: World, rng: random.Random) -> Demonstration:
    """Draw a question of a random skill and answer it, well or badly."""
    question = draw_question(world, rng.choice(SKILLS), rng)
    good = rng.random() < GOOD_SHARE[question.skill]
    script = _Script(question, _noise(rng))
    _TELL[question.skill](world, question, script, None if good else rng)
    return Demonstration(question.skill, good, tuple(script.messages))


def _noise(rng: random.Random) -> str:
    """How the last turn breaks the format: no thought, the wrong tag, or (mostly) not at all."""
    if rng.random() >= NOISE_SHARE:
        return ""
    return "no_thought" if rng.random() < 0.7 else "wrong_tag"


class _Script:
    """Writes the messages of one transcript."""

    def __init__(self, question: Question, noise: str) -> None:
        self.messages = [Message("user", question.text)]
        self._noise = noise

    def search(self, thought: str, query: str, found: Entity) -> Mapping[str, str]:
        """Look `query` up, which finds `found`; returns its facts."""
        self._call(thought, f"Search: {query}", found.document().text)
        return found.facts

    def compute(self, thought: str, expression: str, result: int) -> None:
        """Have the Programmer print the value of `expression`."""
        self._call(thought, f"Programmer: {expression}", str(result))

    def answer(self, thought: str, answer: str) -> None:
        """End the transcript."""
        tag = "tool" if self._noise == "wrong_tag" else "answer"
        before = "" if self._noise == "no_thought" else f"<think> {thought} </think> "
        self.messages.append(Message("assistant", f"{before}<{tag}> {answer} </{tag}>"))

    def _call(self, thought: str, call: str, observation: str) -> None:
        turn = f"<think> {thought} </think> <tool> {call} </tool>"
        self.messages.append(Message("assistant", turn))
        self.messages.append(Message("tool", f"<info>{observation}</info>"))


def _tell_chain(
    world: World, question: Question, script: _Script, bad: random.Random | None
) -> None:
    """Follow the path; badly: ask for another fact (one hop), or stop before its end."""
    path = list(question.path)
    name = question.subjects[0]
    if bad and len(path) == 1:
        path = [bad.choice([fact for fact in world[name].facts if fact not in path])]
    elif bad:
        path = path[: bad.randrange(1, len(path))]
    thought = f"find {path[0]}"
    for attribute, follow in zip(path, (*path[1:], None), strict=True):
        value = script.search(thought, name, world[name])[attribute]
        thought = f"{attribute} {value}" + (f" find {follow}" if follow else "")
        name = value
    script.answer(thought, name)


def _tell_comparison(
    world: World, question: Question, script: _Script, bad: random.Random | None
) -> None:
    """Look both up and compare; badly: believe the first, or mix up older and younger."""
    (asked,), (one, two) = question.path, question.subjects
    first = script.search(f"find born {asked}", one, world[one])
    if bad and bad.random() < 0.5:
        script.answer(f"{asked} {first[asked]}", first[asked])
        return
    second = script.search(f"born {first['born']} {first[asked]}", two, world[two])
    smaller = (question.qualifier == "older") != bool(bad)
    function = min if smaller else max
    expression = f"{function.__name__}({first['born']}, {second['born']})"
    year = function(int(first["born"]), int(second["born"]))
    script.compute(f"born {second['born']} {second[asked]}", expression, year)
    answer = first[asked] if str(year) == first["born"] else second[asked]
    script.answer(f"born {year} {answer}", answer)


def _tell_arithmetic(
    world: World, question: Question, script: _Script, bad: random.Random | None
) -> None:
    """Look both up and subtract; badly: answer a year, or subtract the wrong way round."""
    young, old = question.subjects
    mistake = bad.choice(("first", "second", "reversed")) if bad else ""
    first = script.search("find born", young, world[young])["born"]
    if mistake == "first":
        script.answer(f"born {first}", first)
        return
    second = script.search(f"born {first}", old, world[old])["born"]
    if mistake == "second":
        script.answer(f"born {second}", second)
        return
    left, right = (second, first) if mistake else (first, second)
    years = int(left) - int(right)
    script.compute(f"born {second}", f"{left} - {right}", years)
    script.answer(f"years {years}", str(years))


def _tell_misleading(
    world: World, question: Question, script: _Script, bad: random.Random | None
) -> None:
    """See that the first hit is somebody else and name the job; badly: believe the first hit."""
    (asked,), (name,) = question.path, question.subjects
    facts: Mapping[str, str] = script.search(f"find {asked}", name, world[name])
    if not bad:
        query = f"{name} {question.qualifier}"
        facts = script.search(f"job {facts['job']} wrong", query, world.namesakes[name])
    script.answer(f"{asked} {facts[asked]}", facts[asked])


_Teller = Callable[[World, Question, _Script, random.Random | None], None]
_TELL: Mapping[str, _Teller] = {
    "hop1": _tell_chain,
    "hop2": _tell_chain,
    "hop3": _tell_chain,
    "comparison": _tell_comparison,
    "arithmetic": _tell_arithmetic,
    "misleading": _tell_misleading,
}
