"""The harness: warm-up, interleaved repeats, medians, spreads, ratios.

A benchmark is a module of this package with a docstring that says what is compared on the same
work, and

    def run(quick: bool) -> Result: ...

`quick` asks for the smallest sizes that still run every path. Timing follows three rules. All sides
of a comparison run in turns inside one repeat, so that a slow minute of the machine hits all of
them. A ratio is taken inside each repeat and the median of these ratios is reported, with the
smallest and the largest as its spread. Nothing is thrown away but the warm-up.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Side = Callable[[], float | None]
"""One side of a comparison: does the work once; returns its own measure, or None to be timed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What we want of a figure; the bound itself is met."""

    bound: float
    kind: Literal["at least", "at most"]

    def met(self, value: float) -> bool:
        """Whether `value` is on the right side of the bound."""
        return value >= self.bound if self.kind == "at least" else value <= self.bound

    def __str__(self) -> str:
        """For tables, for example `at least 5`."""
        return f"{self.kind} {self.bound:g}"


def at_least(bound: float) -> Target:
    """A target for figures that should be large."""
    return Target(bound, "at least")


def at_most(bound: float) -> Target:
    """A target for figures that should be small."""
    return Target(bound, "at most")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One number of a benchmark.

    Attributes:
        name: what it is, for example `sub-sequence means, loop ÷ vectorised`.
        value: the median over the repeats.
        low: smallest value of any repeat.
        high: largest value of any repeat.
        unit: `×` for ratios, else a unit such as `ms` or `MiB`.
        target: what we want; none: reported for its own sake.
        repeats: how many values the median is of.
        note: what a reader must know about this number: a reduced size, a missed target's reason.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = ""
    target: Target | None = None
    repeats: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.target is None else self.target.met(self.value)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found.

    Attributes:
        figures: the numbers, in the order of the table.
        setup: sizes and settings of all sides, a peer's configuration too.
        peers: distributions whose version belongs to the result, for example `("trl",)`.
        notes: findings in words.
    """

    figures: Sequence[Figure]
    setup: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    peers: Sequence[str] = ()
    notes: Sequence[str] = ()


Samples = Mapping[str, tuple[float, ...]]
"""For each side, one value per repeat: seconds, unless the side measures something itself."""


def interleave(sides: Mapping[str, Side], *, repeats: int, warmup: int = 1) -> Samples:
    """Run all sides `repeats` times in turns, after `warmup` rounds that are not counted.

    Every second round goes backwards, so that no side always follows the same other one.

    Raises:
        ValueError: fewer than one repeat, or no side.
    """
    if repeats < 1 or not sides:
        raise ValueError(f"repeats={repeats} of {len(sides)} sides: need at least 1 of 1")
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmup + repeats):
        order = list(sides)[:: 1 if turn % 2 == 0 else -1]
        for name in order:
            value = _measure(sides[name])
            if turn >= warmup:
                samples[name].append(value)
    return {name: tuple(values) for name, values in samples.items()}


def _measure(side: Side) -> float:
    started = time.perf_counter()
    own = side()
    return time.perf_counter() - started if own is None else own


def figure(
    name: str,
    values: Sequence[float],
    unit: str = "",
    target: Target | None = None,
    note: str = "",
) -> Figure:
    """A figure from one value per repeat."""
    return Figure(
        name,
        statistics.median(values),
        min(values),
        max(values),
        unit=unit,
        target=target,
        repeats=len(values),
        note=note,
    )


def ratio(
    name: str,
    over: Sequence[float],
    under: Sequence[float],
    target: Target | None = None,
    note: str = "",
) -> Figure:
    """The figure `over ÷ under`, taken repeat by repeat."""
    return figure(
        name, [a / b for a, b in zip(over, under, strict=True)], "×", target=target, note=note
    )
