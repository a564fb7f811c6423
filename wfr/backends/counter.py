"""A worker's side of the hub: places in batches, and news in batches.

While one message is under way the next one gathers, so a busy worker sends few and large ones.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Literal

from wfr.backends.gate import Demand, Outcome
from wfr.backends.hub import HubLike
from wfr.backends.usage import Usage, UsageKey, UsageTable


class Reporter:
    """Sends a worker's outcomes and usage to the hub."""

    def __init__(self, hub: HubLike, worker: str) -> None:
        """Nothing to say yet."""
        self._hub = hub
        self._worker = worker
        self._outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
        self._usage = UsageTable()
        self._sending: asyncio.Task[None] | None = None

    def ended(self, backend: str, outcomes: Iterable[Outcome]) -> None:
        """Places in front of `backend` are free again."""
        self._outcomes[backend].extend(outcomes)
        self._begin()

    def used(self, key: UsageKey, usage: Usage) -> None:
        """Something was used."""
        self._usage.add(key, usage)
        self._begin()

    async def flush(self) -> None:
        """Wait until everything is told."""
        while self._sending is not None:
            await asyncio.wait([self._sending])

    def _begin(self) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            # All that ends in this round of the loop goes into one message.
            await asyncio.sleep(0)
            while self._outcomes or len(self._usage):
                outcomes, self._outcomes = self._outcomes, defaultdict(list)
                usage, self._usage = self._usage, UsageTable()
                await self._hub.report(self._worker, dict(outcomes), list(usage))
        finally:
            self._sending = None


class Place:
    """The right to make one call; `end` it once, whatever becomes of the call.

    Attributes:
        probe: the backend was down, and this call finds out whether it still is.
    """

    def __init__(
        self, end: Callable[[Outcome], None], reserved: tuple[float, float], *, probe: bool
    ) -> None:
        """`reserved` tokens and dollars; `end` takes the outcome."""
        self._end = end
        self._reserved = reserved
        self.probe = probe

    def end(
        self,
        result: Literal["ok", "failed", "busy", "waived"],
        *,
        tokens: int = 0,
        usd: float = 0.0,
        hold_s: float = 0.0,
    ) -> None:
        """Give the place back, saying how the call went, what it took, and how long to hold off."""
        self._end(Outcome(result, self._reserved, tokens, usd, self.probe, hold_s))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Caller:
    future: asyncio.Future[Place]
    tokens: float
    usd: float


class Counter:
    """Places in front of one backend, for the calls of one worker."""

    def __init__(self, hub: HubLike, reporter: Reporter, worker: str, backend: str) -> None:
        """Nobody waits."""
        self._hub = hub
        self._reporter = reporter
        self._worker = worker
        self._backend = backend
        self._waiting: deque[_Caller] = deque()
        self._tokens = self._usd = 0.0  # of all that wait, who may be thousands
        self._asking: asyncio.Task[None] | None = None

    async def place(self, tokens: float, usd: float) -> Place:
        """Wait for a place for one call that is expected to take so much.

        Raises:
            BackendConfigError: the hub has given the backend up.
        """
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        caller = _Caller(future, tokens, usd)
        self._waiting.append(caller)
        self._tokens += tokens
        self._usd += usd
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            return await future
        except asyncio.CancelledError:
            if caller in self._waiting:
                self._waiting.remove(caller)
                self._gone(caller)
            elif future.done() and not future.cancelled() and future.exception() is None:
                future.result().end("waived")
            raise

    async def place_if_up(self, tokens: float, usd: float) -> Place | None:
        """The same, but nothing while the backend is down."""
        demand = Demand(1, tokens, usd)
        asking = asyncio.ensure_future(self._lease(demand, patient=False))
        try:
            places = await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(_waive)  # the lease may be given all the same
            raise
        return places[0] if places else None

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        try:
            await asyncio.sleep(0)  # all calls of this round of the loop go into one message
            while calls := len(self._waiting):
                # The hub reserves for each place what these calls are expected to take on average.
                demand = Demand(calls, self._tokens / calls, self._usd / calls)
                for place in await self._lease(demand, patient=True):
                    self._hand_out(place)
        except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it, whatever it is
            while caller := self._next():
                caller.future.set_exception(error)
        finally:
            self._asking = None

    async def _lease(self, demand: Demand, *, patient: bool) -> list[Place]:
        lease = await self._hub.lease(self._worker, self._backend, demand, patient=patient)
        reserved = (demand.tokens, demand.usd)
        return [Place(self._ended, reserved, probe=lease.probe) for _ in range(lease.calls)]

    def _hand_out(self, place: Place) -> None:
        if caller := self._next():
            caller.future.set_result(place)
        else:
            place.end("waived")

    def _next(self) -> _Caller | None:
        while self._waiting:
            caller = self._waiting.popleft()
            self._gone(caller)
            if not caller.future.done():  # cancelled, and not run since
                return caller
        return None

    def _gone(self, caller: _Caller) -> None:
        self._tokens -= caller.tokens
        self._usd -= caller.usd
        if not self._waiting:  # what rounding has left
            self._tokens = self._usd = 0.0

    def _ended(self, outcome: Outcome) -> None:
        self._reporter.ended(self._backend, [outcome])


def _waive(asking: asyncio.Future[list[Place]]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        for place in asking.result():
            place.end("waived")
