"""Operators with a limit on the calls at once: who comes first is served first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from wfr.planner.scenario import OperatorPlan


class Operators:
    """When calls end. Latencies are known beforehand, so a call's end is known when it comes."""

    def __init__(self, plans: Sequence[OperatorPlan]) -> None:
        """No calls yet."""
        self._plans = plans
        self._free: list[list[float]] = [[0.0] * (plan.places or 0) for plan in plans]
        self.calls = [0] * len(plans)
        self.busy_seconds = [0.0] * len(plans)
        self.usd = 0.0

    def call(self, operator: int, seconds: float, now: float) -> float:
        """A call that takes so many seconds comes in; returns when it starts."""
        self.calls[operator] += 1
        self.busy_seconds[operator] += seconds
        self.usd += self._plans[operator].usd
        free = self._free[operator]
        if not free:
            return now
        start = max(now, free[0])
        heapq.heapreplace(free, start + seconds)
        return start
