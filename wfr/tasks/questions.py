"""Questions about a world, each with its answer and the look-ups that lead to it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping

from wfr.tasks.world import World

PERSON_FACTS = ("born", "job", "home", "firm", "friend")
MIN_YEARS_APART = 10
"""Between two people that are compared: a difference always has two digits, like all numbers."""
LINKS: Mapping[str, tuple[str, ...]] = {
    "friend": PERSON_FACTS,
    "home": ("river", "mayor"),
    "firm": ("seat", "boss"),
    "mayor": PERSON_FACTS,
    "boss": PERSON_FACTS,
    "seat": ("river", "mayor"),
}
"""Attributes whose value is an entity, and what may be asked of that entity."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and how to get there.

    Attributes:
        subjects: names that the question mentions.
        path: attributes to follow from the subject; the last one is what is asked for.
        qualifier: `older` or `younger` of two people, or the job of the namesake that is meant.
    """

    skill: str
    text: str
    answer: str
    subjects: tuple[str, ...]
    path: tuple[str, ...]
    qualifier: str = ""


def draw_question(world: World, skill: str, rng: random.Random) -> Question:
    """Draw a question that needs `skill`, one of `SKILLS`."""
    return _DRAW[skill](world, rng)


def _hop1(world: World, rng: random.Random) -> Question:
    name = rng.choice((*world.known_people(), *world.places))
    return _chain(world, name, (rng.choice(tuple(world[name].facts)),))


def _hop2(world: World, rng: random.Random) -> Question:
    return _chain(world, *_walk(world, 2, rng))


def _hop3(world: World, rng: random.Random) -> Question:
    return _chain(world, *_walk(world, 3, rng))


def _walk(world: World, length: int, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """A person and a path of different attributes that never comes back to where it was."""
    while True:
        name = rng.choice(world.known_people())
        path, seen, current = [rng.choice(("friend", "home", "firm"))], {name}, name
        while len(path) < length:
            current = world[current].facts[path[-1]]
            follow = [a for a in LINKS[path[-1]] if len(path) + 1 == length or a in LINKS]
            seen.add(current)
            path.append(rng.choice(follow))
        if len(seen) == length == len(set(path)):
            return name, tuple(path)


def _chain(world: World, name: str, path: tuple[str, ...]) -> Question:
    value = name
    for attribute in path:
        value = world[value].facts[attribute]
    text = name + "".join(f"'s {attribute}" for attribute in path) + "?"
    return Question(f"hop{len(path)}", text, value, (name,), path)


def _pair(world: World, rng: random.Random) -> tuple[str, str]:
    """Two people who are at least `MIN_YEARS_APART`."""
    while True:
        one, two = rng.sample(world.known_people(), 2)
        if abs(_born(world, one) - _born(world, two)) >= MIN_YEARS_APART:
            return one, two


def _born(world: World, name: str) -> int:
    return int(world[name].facts["born"])


def _comparison(world: World, rng: random.Random) -> Question:
    pair = _pair(world, rng)
    qualifier = rng.choice(("older", "younger"))
    pick = min if qualifier == "older" else max
    chosen = pick(pair, key=lambda name: _born(world, name))
    text = f"The {qualifier} of {pair[0]} and {pair[1]}: job?"
    return Question("comparison", text, world[chosen].facts["job"], pair, ("job",), qualifier)


def _arithmetic(world: World, rng: random.Random) -> Question:
    old, young = sorted(_pair(world, rng), key=lambda name: _born(world, name))
    years = _born(world, young) - _born(world, old)
    text = f"{young} is how many years younger than {old}?"
    return Question("arithmetic", text, str(years), (young, old), ("born",))


def _misleading(world: World, rng: random.Random) -> Question:
    namesake = world.namesakes[rng.choice(tuple(world.namesakes))]
    job, asked = namesake.facts["job"], rng.choice(("born", "home", "firm", "friend"))
    text = f"The {job} {namesake.name}'s {asked}?"
    return Question("misleading", text, namesake.facts[asked], (namesake.name,), (asked,), job)


_DRAW: Mapping[str, Callable[[World, random.Random], Question]] = {
    "hop1": _hop1,
    "hop2": _hop2,
    "hop3": _hop3,
    "comparison": _comparison,
    "arithmetic": _arithmetic,
    "misleading": _misleading,
}
SKILLS = tuple(_DRAW)
