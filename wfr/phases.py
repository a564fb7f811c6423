"""Where the time of a loop goes: it is in one phase at a time, so the phases add up to its life."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping


class PhaseClock:
    """Seconds that one loop has spent in each of its phases.

    Example:
        clock = PhaseClock("own")
        with clock.within("sampler"):
            await sample()
        clock.seconds()  # {"own": ..., "sampler": ...}, which add up to the clock's age
    """

    def __init__(self, phase: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin in `phase`, now."""
        self._clock = clock
        self._phase = phase
        self._since = self._entered = clock()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def enter(self, phase: str) -> None:
        """Leave the phase that it is in for another."""
        self._book()
        self._phase, self._entered = phase, self._since

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Be in `phase` for the block, then in the one before."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def current(self) -> tuple[str, float]:
        """The phase under way, and how long it has been."""
        return self._phase, self._clock() - self._entered

    def seconds(self) -> dict[str, float]:
        """Seconds by phase until now, the phase under way included."""
        self._book()
        return dict(self._seconds)

    def _book(self) -> None:
        now = self._clock()
        self._seconds[self._phase] += now - self._since
        self._since = now


class PhaseSum:
    """The seconds of many clocks together, which may start and end at any time."""

    def __init__(self) -> None:
        """Start without a clock."""
        self._running: set[PhaseClock] = set()
        self._told: defaultdict[str, float] = defaultdict(float)
        self._ended: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def clock(self, phase: str) -> Iterator[PhaseClock]:
        """A clock that runs while the block does, in `phase` at first."""
        clock = PhaseClock(phase)
        self._running.add(clock)
        try:
            yield clock
        finally:
            self._running.discard(clock)
            for name, seconds in clock.seconds().items():
                self._ended[name] += seconds

    def now(self) -> dict[str, tuple[int, float]]:
        """By phase, how many clocks are in it, and for how many seconds the longest of them."""
        found: dict[str, tuple[int, float]] = {}
        for phase, seconds in (clock.current() for clock in self._running):
            count, longest = found.get(phase, (0, 0.0))
            found[phase] = (count + 1, max(longest, seconds))
        return found

    def drain(self) -> dict[str, float]:
        """Seconds by phase since the last call, or since the start."""
        total = defaultdict(float, self._ended)
        for clock in self._running:
            for name, seconds in clock.seconds().items():
                total[name] += seconds
        spent = {name: seconds - self._told[name] for name, seconds in total.items()}
        self._told = total
        return spent


def shares(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Share of each phase in the time between two readings; they add up to 1, or none are known."""
    grown = {phase: max(0.0, after[phase] - before.get(phase, 0.0)) for phase in after}
    total = sum(grown.values())
    return {phase: value / total for phase, value in grown.items()} if total > 0 else {}
