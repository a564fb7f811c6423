"""Arithmetic word problems: someone has some things, and then this and that happens to them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping

from wfr.tasks.world import FIRST_NAMES

THINGS = ("coins", "books", "pears", "cards", "shells", "stamps")


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One event: how it is told, and what it does to the count."""

    text: str
    apply: Callable[[int], int]


STEPS: Mapping[str, Callable[[int], Step]] = {
    "buys": lambda n: Step(f"buys {n}", lambda have: have + n),
    "finds": lambda n: Step(f"finds {n}", lambda have: have + n),
    "sells": lambda n: Step(f"sells {n}", lambda have: have - n),
    "loses": lambda n: Step(f"loses {n}", lambda have: have - n),
    "doubles": lambda n: Step("doubles them", lambda have: 2 * have),
    "triples": lambda n: Step("triples them", lambda have: 3 * have),
}
"""How events are told, by their verb."""


@dataclasses.dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem and its answer."""

    text: str
    answer: int


def draw_word_problem(rng: random.Random, steps: int) -> WordProblem:
    """Draw a problem of so many events; the count never falls below zero.

    Example: `Ada has 12 coins, buys 7, doubles them: how many?`
    """
    while True:
        have = start = rng.randrange(10, 60)
        told = []
        for verb in rng.sample(tuple(STEPS), steps):
            step = STEPS[verb](rng.randrange(3, 30))
            have = step.apply(have)
            told.append(step.text)
            if have < 0:
                break
        else:
            name, things = rng.choice(FIRST_NAMES), rng.choice(THINGS)
            return WordProblem(f"{name} has {start} {things}, {', '.join(told)}: how many?", have)
