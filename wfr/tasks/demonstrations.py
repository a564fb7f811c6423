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
    "hop2": 0.8,
    "hop3": 0.3,
    "comparison": 0.3,
    "arithmetic": 0.25,
    "misleading": 0.35,
}
"""Share of a skill's demonstrations that are good."""
WEIGHT: Mapping[str, float] = {
    "hop1": 0.7,
    "hop2": 1.0,
    "hop3": 1.5,
    "comparison": 1.5,
    "arithmetic": 1.2,
    "misleading": 1.2,
}
"""How often a skill is demonstrated, relative to the others."""
NOISE_SHARE = 0.08
"""Share of demonstrations whose last turn breaks the format."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demonstration:
    """One transcript; `good` tells whether it shows the right way to answer."""

    skill: str
    good: bool
    messages: tuple[Message, ...]


def demonstrate(world: World, rng: random.Random) -> Demonstration:
    """Draw a question of a random skill and answer it well or badly."""
    (skill,) = rng.choices(SKILLS, [WEIGHT[skill] for skill in SKILLS])
    question = draw_question(world, skill, rng)
    good = rng.random() < GOOD_SHARE[skill]
    return Demonstration(skill, good, tell(world, question, None if good else rng, _noise(rng)))


def tell(
    world: World, question: Question, bad: random.Random | None = None, noise: str = ""
) -> tuple[Message, ...]:
    """The transcript of a good answer or, given a generator to draw a mistake from, a bad one."""
    script = _Script(question, noise)
    _TELL[question.skill](world, question, script, bad)
    return tuple(script.messages)


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

    def compute(self, thought: str, expression: str, result: str) -> None:
        """Have the Programmer show the value of `expression`."""
        self._call(thought, f"Programmer: {expression}", result)

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
    """Look both up and compare; badly: answer with a year, the first one or the right one's."""
    one, two = question.subjects
    mistake = bad.choice(("first", "year")) if bad else ""
    first = script.search("find born job", one, world[one])
    if mistake == "first":
        script.answer(f"born {first['born']}", first["born"])
        return
    one_read, two_read = (f"{facts['born']} {facts['job']}" for facts in (first, world[two].facts))
    script.search(f"born {one_read}", two, world[two])
    pick = min if question.qualifier == "older" else max
    chosen = pick(one_read, two_read)
    script.compute(f"born {two_read}", f"{pick.__name__}({one_read!r}, {two_read!r})", repr(chosen))
    year, job = chosen.split()
    if mistake == "year":
        script.answer(f"born {year}", year)
    else:
        script.answer(f"job {job}", job)


def _tell_arithmetic(
    world: World, question: Question, script: _Script, bad: random.Random | None
) -> None:
    """Look both up and subtract; badly: add, or answer the first or the second year."""
    young, old = question.subjects
    mistake = bad.choice(("add", "add", "first", "second")) if bad else ""
    first = script.search("find born", young, world[young])["born"]
    if mistake == "first":
        script.answer(f"born {first}", first)
        return
    second = script.search(f"born {first}", old, world[old])["born"]
    if mistake == "second":
        script.answer(f"born {second}", second)
        return
    sign = "+" if mistake == "add" else "-"
    years = str(int(first) + int(second) if mistake == "add" else int(first) - int(second))
    script.compute(f"born {second}", f"{first} {sign} {second}", years)
    script.answer(f"years {years}", years)


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
