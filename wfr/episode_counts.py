"""What a worker counts of its episodes, for metrics: how they ended, and what operators took."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from wfr.trajectory import StopReason, Trajectory

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds, in seconds, under which calls of operators are told apart."""
_BEYOND = 1e9
_SANDBOX = "sandbox"

Counts: TypeAlias = dict[str, dict[str, int]]
"""Name of a count → label → number."""
Latencies: TypeAlias = dict[str, dict[str, int]]
"""Operator → upper bound of the seconds, as JSON has it → calls."""


class EpisodeCounts:
    """Counts since the last `drain`."""

    def __init__(self) -> None:
        """Count from nought."""
        self._clear()

    def note(self, trajectory: Trajectory) -> None:
        """An episode has ended, for good or to be played again."""
        self._counts["episodes/ended"][trajectory.stop_reason.value] += 1
        for turn in trajectory.turns:
            self._counts["episodes/turns"][turn.kind.value] += 1
        for call in trajectory.operator_calls:
            self._counts["operators/statuses"][call.status] += 1
            if call.backend == _SANDBOX:
                self._counts["operators/sandbox"][call.status] += 1
            if not call.cache_hit:
                at = bisect_left(BOUNDS, call.seconds)
                bound = BOUNDS[at] if at < len(BOUNDS) else _BEYOND
                self._latencies[call.operator][str(bound)] += 1

    def retried(self, reason: StopReason) -> None:
        """It is played again."""
        self._counts["episodes/retried"][reason.value] += 1

    def drain(self) -> tuple[Counts, Latencies]:
        """What was counted since the last call."""
        counts = {name: dict(counter) for name, counter in self._counts.items()}
        latencies = {name: dict(counter) for name, counter in self._latencies.items()}
        self._clear()
        return counts, latencies

    def _clear(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._latencies: defaultdict[str, Counter[str]] = defaultdict(Counter)


class EpisodeTotals:
    """The counts of all workers: totals since the beginning, latencies since the last record."""

    def __init__(self) -> None:
        """Nothing was counted."""
        self._totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._latencies: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, counts: Mapping[str, Mapping[str, int]], latencies: Latencies) -> None:
        """Take in what a worker has drained."""
        for name, counter in counts.items():
            self._totals[name].update(counter)
        for operator, counter in latencies.items():
            self._latencies[operator].update(counter)

    def record(self) -> dict[str, dict[str, int] | Latencies]:
        """For a step's record."""
        latencies = {name: dict(counter) for name, counter in self._latencies.items()}
        self._latencies.clear()
        totals = {name: dict(counter) for name, counter in self._totals.items()}
        return {**totals, "operators/seconds": latencies}
