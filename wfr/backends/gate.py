"""The gate in front of one backend: who may ask it, of all workers of the cluster.

A worker asks for as many places as it has calls waiting and gets some of them, in turn with the
others; so one message serves many calls. A place is given back with what became of the call.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, NamedTuple

from wfr.backends.base import BackendConfigError
from wfr.backends.breaker import Breaker, Circuit
from wfr.backends.rate import Rate
from wfr.backends.spending import RunBudget
from wfr.backends.usage import Usage
from wfr.executor_config import BreakerConfig, LimitsConfig


class Demand(NamedTuple):
    """Calls that wait for a place, and what one of them is expected to take."""

    calls: int
    tokens: float = 0.0
    usd: float = 0.0


class Lease(NamedTuple):
    """Places for so many calls; none: the backend is down and the worker did not want to wait."""

    calls: int
    probe: bool = False


class Outcome(NamedTuple):
    """What became of one place.

    Attributes:
        result: `ok`; `failed`: the backend did not do its part; `busy`: it was asked too much;
            `waived`: nobody waited for it.
        reserved: tokens and dollars that the lease was given for.
        tokens, usd: what the call took.
        hold_s: how long the backend asked to be left alone.
    """

    result: Literal["ok", "failed", "busy", "waived"]
    reserved: tuple[float, float] = (0.0, 0.0)
    tokens: int = 0
    usd: float = 0.0
    probe: bool = False
    hold_s: float = 0.0

    @property
    def took(self) -> Usage:
        """The same as usage; a call that nobody waited for is not charged, as far as is known."""
        if self.result == "waived":
            return Usage()
        return Usage(requests=1, prompt_tokens=self.tokens, usd=self.usd)


@dataclasses.dataclass(slots=True)
class _Waiting:
    worker: str
    demand: Demand
    patient: bool
    lease: asyncio.Future[Lease]


class Gate:
    """Hands out places within the limits, while the backend is up and the budget lasts."""

    def __init__(
        self,
        name: str,
        limits: LimitsConfig,
        breaker: BreakerConfig,
        budget: RunBudget,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """Everything is free. `clock` and `sleep` are in seconds."""
        self._name = name
        self._limits = limits
        self._budget = budget
        self._clock = clock
        self._sleep = sleep
        self._requests = Rate(limits.requests_per_minute, clock)
        self._tokens = Rate(limits.tokens_per_minute, clock)
        self.breaker = Breaker(breaker, clock)
        self._hold_until = clock()
        self._used: Counter[str] = Counter()
        self._probing = ""
        self._reserved: dict[str, list[float]] = {}
        self._queue: deque[_Waiting] = deque()
        self._timer: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Places that are taken."""
        return self._used.total()

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return sum(waiting.demand.calls for waiting in self._queue)

    async def lease(self, worker: str, demand: Demand, *, patient: bool = True) -> Lease:
        """Wait for at least one place; with `patient=False` not while the backend is down.

        Raises:
            BackendConfigError: nothing has succeeded for longer than `breaker.give_up_s`.
        """
        assert demand.calls > 0, demand
        waiting = _Waiting(worker, demand, patient, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._pump()
        try:
            return await waiting.lease
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif waiting.lease.done() and not waiting.lease.cancelled():
                lease = waiting.lease.result()
                self._end(worker, [self._unused(demand, lease)] * lease.calls)
            raise

    def give_back(self, worker: str, outcomes: Iterable[Outcome]) -> None:
        """Take places back and learn from what became of the calls."""
        self._end(worker, outcomes)

    def forget(self, worker: str) -> None:
        """A worker has died: what it held is free again."""
        for waiting in [w for w in self._queue if w.worker == worker]:
            self._queue.remove(waiting)
            waiting.lease.cancel()
        calls, (tokens, usd) = self._used.pop(worker, 0), self._reserved.pop(worker, [0.0, 0.0])
        for _ in range(calls):
            self._budget.settle(tokens / calls, usd / calls)
        if self._probing == worker:
            self._probing = ""
            self.breaker.waived(probe=True)
        self._pump()

    def _end(self, worker: str, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if not self._used[worker]:
                continue  # late news of a worker that was forgotten
            self._used[worker] -= 1
            tokens, usd = outcome.reserved
            self._reserve(worker, -tokens, -usd)
            self._budget.settle(tokens, usd, outcome.took)
            self._tokens.take(outcome.tokens - tokens)
            self._learn(outcome)
        self._pump()

    def _learn(self, outcome: Outcome) -> None:
        probe = outcome.probe
        if probe:
            self._probing = ""
        if outcome.hold_s:
            self._hold_until = max(self._hold_until, self._clock() + outcome.hold_s)
        if outcome.result == "ok":
            self.breaker.succeeded(probe=probe)
        elif outcome.result == "failed":
            self.breaker.failed(probe=probe)
        else:
            self.breaker.waived(probe=probe)

    def _pump(self) -> None:
        """Give out what there is, then see when there will be more."""
        if self.breaker.given_up:
            self._give_up()
        while self._queue and self._grant(self._queue[0]):
            self._queue.popleft()
        if self.breaker.circuit is not Circuit.CLOSED:
            self._turn_away()
        wait_s = self._wait_s() if self._queue else 0.0
        if 0 < wait_s < float("inf"):
            self._wake_in(wait_s)

    def _grant(self, waiting: _Waiting) -> bool:
        free = self._limits.concurrency - self.in_flight
        wanted = min(waiting.demand.calls, max(1, free // len(self._queue)), max(free, 0))
        granted, probe = 0, False
        while granted < wanted and not probe and self._wait_s() == 0:
            tokens, usd = waiting.demand.tokens, waiting.demand.usd
            if not self._budget.reserve(tokens, usd):
                break
            probe = self.breaker.begin()
            self._requests.take(1)
            self._tokens.take(tokens)
            self._reserve(waiting.worker, tokens, usd)
            self._used[waiting.worker] += 1
            granted += 1
        if probe:
            self._probing = waiting.worker
        if granted:
            waiting.lease.set_result(Lease(granted, probe))
        return granted > 0

    def _wait_s(self) -> float:
        """Seconds until the next request may be made, places and budget apart."""
        held = self._hold_until - self._clock()
        return max(0.0, held, self.breaker.wait_s(), self._requests.wait_s(), self._tokens.wait_s())

    def _turn_away(self) -> None:
        for waiting in [w for w in self._queue if not w.patient]:
            self._queue.remove(waiting)
            waiting.lease.set_result(Lease(0))

    def _give_up(self) -> None:
        for waiting in self._queue:
            waiting.lease.set_exception(
                BackendConfigError(
                    f"executor backend {self._name!r} has not answered for "
                    f"{self.breaker.down_s:.0f} s (breaker.give_up_s). Nothing was scored. See to "
                    "the server and start again."
                )
            )
        self._queue.clear()

    def _reserve(self, worker: str, tokens: float, usd: float) -> None:
        reserved = self._reserved.setdefault(worker, [0.0, 0.0])
        reserved[0] += tokens
        reserved[1] += usd

    @staticmethod
    def _unused(demand: Demand, lease: Lease) -> Outcome:
        return Outcome("waived", (demand.tokens, demand.usd), probe=lease.probe)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.ensure_future(self._wake(seconds))

    async def _wake(self, seconds: float) -> None:
        await self._sleep(seconds)
        self._timer = None
        self._pump()
