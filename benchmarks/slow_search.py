"""Search that takes its time: declarations for `environment.pool`, one per latency profile.

`benchmarks.slow_search:LOG_NORMAL` in the place of `Search` finds the same, later. Latencies are
drawn in the order of a process's calls from one seeded generator.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np

from wfr.operators.base import Outcome, Scope
from wfr.operators.coded import Coded, CodedOperator
from wfr.operators.meter import Meter
from wfr.operators.search import SPEC
from wfr.operators.values import NodeInput, NodeOutcome
from wfr.planner.distributions import LogNormal, Mixture

PROFILES: dict[str, LogNormal | Mixture] = {
    "LOG_NORMAL": LogNormal(median=0.2, p99=1.0),
    "HEAVY": Mixture(
        parts=((0.97, LogNormal(median=0.2, p99=1.0)), (0.03, LogNormal(median=4.0, p99=8.0)))
    ),
}
"""Seconds that a call takes longer."""


class SlowSearch:
    """A search whose answers are late."""

    spec = SPEC

    def __init__(self, search: CodedOperator, latency: LogNormal | Mixture) -> None:
        """Answer as `search` does."""
        self._search = search
        self._latency = latency
        self._rng = np.random.default_rng(1)
        self.parameters = "slow"

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Find, and wait; the wait is part of the call's recorded seconds."""
        outcome = await self._search.call(argument, scope)
        seconds = await self._wait()
        seconds += outcome.call.seconds
        call = dataclasses.replace(outcome.call, seconds=seconds, ended_at=time.time())
        return dataclasses.replace(outcome, call=call)

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Find for a node of a workflow, and wait."""
        outcome = await self._search.run(inputs, scope, meter)
        await self._wait()
        return outcome

    async def _wait(self) -> float:
        seconds = float(self._latency.draw(self._rng, 1)[0])
        await asyncio.sleep(seconds)
        return seconds


LOG_NORMAL = Coded(SPEC, lambda services: SlowSearch(services.search, PROFILES["LOG_NORMAL"]))
HEAVY = Coded(SPEC, lambda services: SlowSearch(services.search, PROFILES["HEAVY"]))
