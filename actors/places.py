"""Places: how many requests an engine serves at once, and who is next.

The request with the smallest priority number is next, the one that came first among equals. Workers
use the group's id, which rises with its admission: the oldest groups, whose deadlines are nearest,
get their tokens first, and no group is given up for being slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator


class Places:
    """`async with places.hold(priority): ...` holds one of `count` places inside the block."""

    def __init__(self, count: int) -> None:
        """All places are free."""
        self._count = self._free = count
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._emptied = asyncio.Event()
        self._emptied.set()

    @property
    def requests(self) -> int:
        """How many hold a place or wait for one."""
        waiting = sum(not turn.done() for *_, turn in self._waiting)
        return self._count - self._free + waiting

    async def empty(self) -> None:
        """Wait until there is no request."""
        while self.requests:
            self._emptied.clear()
            await self._emptied.wait()

    @contextlib.asynccontextmanager
    async def hold(self, priority: int) -> AsyncIterator[None]:
        """Wait for a place and give it back at the end, or when cancelled."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
        self._call_next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came together with the end
                self._give_back()
            raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        self._free += 1
        self._call_next()
        if self._free == self._count:
            self._emptied.set()

    def _call_next(self) -> None:
        while self._free and self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
