"""Writing small programs from their description, with or without a slip.

The descriptions are those of the embedded world: `Write f(xs): sum of odd xs squared`. Nothing but
the description is known here.
"""

from __future__ import annotations

import dataclasses
import random
import re

_TASK = re.compile(
    r"Write (?P<name>\w+)\(xs\): (?P<fold>\w+) of (?P<which>\w+)(?: (?P<limit>\d+))? xs"
    r"(?: (?P<how>squared|doubled|negated))?"
)
_FOLDS = {
    "sum": "sum(chosen)",
    "count": "len(chosen)",
    "largest": "max(chosen, default=0)",
    "smallest": "min(chosen, default=0)",
}
_CONDITIONS = {
    "even": "x % 2 == 0",
    "odd": "x % 2 == 1",
    "positive": "x > 0",
    "negative": "x < 0",
}
_MAPS = {"": "x", "squared": "x * x", "doubled": "2 * x", "negated": "-x"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    name: str
    value: str
    condition: str
    result: str

    def program(self) -> str:
        return (
            f"def {self.name}(xs):\n"
            f"    chosen = [{self.value} for x in xs if {self.condition}]\n"
            f"    return {self.result}"
        )


def is_programming(problem: str) -> bool:
    """True where a program is asked for."""
    return _TASK.match(problem.lstrip()) is not None


def write_program(problem: str, slip: random.Random | None = None) -> str:
    """The program that a description asks for; with one mistake drawn from `slip` if given.

    Raises ValueError for a description of another form.
    """
    found = _TASK.match(problem.lstrip())
    if found is None or found["fold"] not in _FOLDS:
        raise ValueError(f"no description of a program: {problem[:60]!r}")
    which, limit = found["which"], found["limit"]
    sign = {"over": ">", "under": "<"}.get(which)
    condition = f"x {sign} {limit}" if sign and limit else _CONDITIONS.get(which, "True")
    parts = _Parts(found["name"], _MAPS[found["how"] or ""], condition, _FOLDS[found["fold"]])
    return (_spoiled(parts, slip) if slip else parts).program()


def _spoiled(parts: _Parts, slip: random.Random) -> _Parts:
    """One of the mistakes that programmers make, among those that change this program."""
    wrong = [
        dataclasses.replace(parts, condition="True"),
        dataclasses.replace(parts, result="chosen[0] if chosen else 0"),
        dataclasses.replace(parts, result=f"{parts.result} + 1"),
        dataclasses.replace(parts, condition=f"not ({parts.condition})"),
    ]
    if parts.value != "x":
        wrong.append(dataclasses.replace(parts, value="x"))
    if "default" in parts.result:  # fails on an empty list only, which public tests may not try
        wrong.append(dataclasses.replace(parts, result=parts.result.replace(", default=0", "")))
    return slip.choice(wrong)
