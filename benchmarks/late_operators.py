"""Operators that take their time, and sometimes fail: declarations for `environment.pool`.

`benchmarks.late_operators:SEARCH_LOG_NORMAL` in the place of `Search` finds the same, later.
Latencies and failures are drawn in the order of an operator's calls from one seeded generator per
process. A failure is one of the world: the worker plays the episode again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time

import numpy as np

from wfr.operators.base import OperatorSpec, Outcome, Scope
from wfr.operators.coded import Coded, CodedOperator
from wfr.operators.library import SEARCH
from wfr.operators.meter import Meter
from wfr.operators.programmer import PROGRAMMER
from wfr.operators.values import NodeInput, NodeOutcome
from wfr.planner.distributions import LogNormal, Mixture
from wfr.trajectory import StopReason, WorldFailureError


@dataclasses.dataclass(frozen=True, slots=True)
class Lateness:
    """How late an operator is.

    Attributes:
        latency: seconds that a call takes longer.
        failures: share of calls that fail after that time.
    """

    latency: LogNormal | Mixture
    failures: float = 0.0


PROFILES: dict[str, Lateness] = {
    "LOG_NORMAL": Lateness(LogNormal(median=0.2, p99=1.0)),
    "HEAVY": Lateness(
        Mixture(
            parts=(
                (0.97, LogNormal(median=0.2, p99=1.0)),
                (0.03, LogNormal(median=4.0, p99=8.0)),
            )
        )
    ),
    "HEAVY_TAIL": Lateness(LogNormal(median=0.2, p99=4.0), failures=0.005),
}


class LateOperator:
    """An operator whose answers are late."""

    def __init__(self, operator: CodedOperator, lateness: Lateness) -> None:
        """Answer as `operator` does."""
        self._operator = operator
        self._lateness = lateness
        self._rng = np.random.default_rng(1)
        self.parameters = f"late {operator.parameters}"

    @property
    def spec(self) -> OperatorSpec:
        """The operator's own declaration."""
        return self._operator.spec

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Carry out and wait; the wait is part of the call's recorded seconds.

        Raises:
            WorldFailureError: BACKEND_FAILED in a share of the calls, besides the operator's own.
        """
        outcome = await self._operator.call(argument, scope)
        seconds = await self._wait() + outcome.call.seconds
        call = dataclasses.replace(outcome.call, seconds=seconds, ended_at=time.time())
        return dataclasses.replace(outcome, call=call)

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Carry out a node of a workflow and wait; raises as `call` does."""
        outcome = await self._operator.run(inputs, scope, meter)
        await self._wait()
        return outcome

    async def _wait(self) -> float:
        seconds = float(self._lateness.latency.draw(self._rng, 1)[0])
        fails = self._rng.random() < self._lateness.failures
        await asyncio.sleep(seconds)
        if fails:
            raise WorldFailureError(
                StopReason.BACKEND_FAILED, "a failure that the profile asks for"
            )
        return seconds


def _late(operator: Coded, profile: str) -> Coded:
    lateness = PROFILES[profile]
    return Coded(
        operator.spec,
        lambda services: LateOperator(operator.make(services), lateness),
        where=operator.where,
    )


SEARCH_LOG_NORMAL = _late(SEARCH, "LOG_NORMAL")
SEARCH_HEAVY = _late(SEARCH, "HEAVY")
SEARCH_HEAVY_TAIL = _late(SEARCH, "HEAVY_TAIL")
PROGRAMMER_LOG_NORMAL = _late(PROGRAMMER, "LOG_NORMAL")
PROGRAMMER_HEAVY_TAIL = _late(PROGRAMMER, "HEAVY_TAIL")
