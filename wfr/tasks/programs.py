"""Small programming tasks: fold the chosen numbers of a list into one."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

ENTRY_POINT = "f"

FOLDS: Mapping[str, Callable[[Sequence[int]], int]] = {
    "sum": sum,
    "count": len,
    "largest": lambda numbers: max(numbers, default=0),
    "smallest": lambda numbers: min(numbers, default=0),
}
"""What is asked of the numbers; 0 where there is none."""

MAPS: Mapping[str, Callable[[int], int]] = {
    "": lambda x: x,
    "squared": lambda x: x * x,
    "doubled": lambda x: 2 * x,
    "negated": lambda x: -x,
}
"""What is done to each number first."""

_TESTS = 6
_PUBLIC = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A task and its tests, one assertion each.

    The `public` tests may be shown to and run by anybody; the `hidden` ones grade.
    """

    text: str
    public: tuple[str, ...]
    hidden: tuple[str, ...]


def _assertions(tests: Sequence[tuple[list[int], int]]) -> tuple[str, ...]:
    """The tests as Python statements."""
    return tuple(f"assert {ENTRY_POINT}({xs}) == {value}" for xs, value in tests)


def all_programs(rng: random.Random) -> Iterator[Program]:
    """Every task there is, each with freshly drawn tests.

    Example: `Write f(xs): sum of odd xs squared`
    """
    kept: dict[str, Callable[[int], bool]] = {
        "even": lambda x: x % 2 == 0,
        "odd": lambda x: x % 2 == 1,
        "positive": lambda x: x > 0,
        "negative": lambda x: x < 0,
    }
    for limit in range(1, 10):
        kept[f"over {limit}"] = lambda x, limit=limit: x > limit  # type: ignore[misc]
        kept[f"under {limit}"] = lambda x, limit=limit: x < limit  # type: ignore[misc]
    for (fold, folded), (which, keep), (how, mapped) in itertools.product(
        FOLDS.items(), kept.items(), MAPS.items()
    ):
        if fold == "count" and how:
            continue  # counting does not care
        cases = [[rng.randrange(-9, 20) for _ in range(rng.randrange(4, 8))] for _ in range(_TESTS)]
        cases.append([])
        tests = [(xs, folded([mapped(x) for x in xs if keep(x)])) for xs in cases]
        text = f"Write {ENTRY_POINT}(xs): {fold} of {which} xs {how}".strip()
        yield Program(text, _assertions(tests[:_PUBLIC]), _assertions(tests[_PUBLIC:]))
