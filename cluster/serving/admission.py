"""Places for requests, and a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from cluster.serving.errors import ServingError

_SMOOTHING = 0.1
"""Weight of the latest request in the mean time that one holds its place."""


class Admission:
    """First come, first served; whoever would have to wait behind too many is refused at once."""

    def __init__(
        self,
        places: int,
        queue: int,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`places` requests at once, `queue` more may wait, none longer than `timeout_s`."""
        self._places = places
        self._queue = queue
        self._timeout_s = timeout_s
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_s = 1.0
        self.running = 0
        self.draining = False

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            ServingError: 429 where the queue is full or was too slow, 503 at the end of service.
        """
        await self._enter()
        began = self._clock()
        try:
            yield
        finally:
            self._mean_s += _SMOOTHING * (self._clock() - began - self._mean_s)
            self._leave()

    async def _enter(self) -> None:
        if self.draining:
            raise ServingError(503, "shutting_down", "the service is shutting down", 1.0)
        if self.running < self._places and not self._waiting:
            self.running += 1
            return
        if len(self._waiting) >= self._queue:
            raise self._overloaded(f"{self.running} requests run and {self.waiting} wait")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except TimeoutError:
            self._give_up(turn)
            raise self._overloaded(f"no place within {self._timeout_s:g} s") from None
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """A place that was given at the same moment goes on to the next one."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done() and not turn.cancelled():
            self._leave()

    def _leave(self) -> None:
        self.running -= 1
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)
                return

    def _overloaded(self, why: str) -> ServingError:
        wait_s = self._mean_s * (self.waiting + 1) / self._places
        return ServingError(429, "overloaded", f"overloaded: {why}; try again later", wait_s)
