"""Bundle: many small calls in few; what comes while a call is under way goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Bundle(Generic[Item, Result]):
    """Awaiting it with an item gives the item's result.

    An idle bundle sends at once, so nobody waits for company; a busy one sends fewer calls.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        """`send` gives the results of the first items, at least one; the others are sent again.

        What it raises, everybody gets who waits for it.
        """
        self._send = send
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Send the item, alone or with others."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._sending is None:
            self._sending = asyncio.create_task(self._run())
        return await result

    async def _run(self) -> None:
        try:
            while self._waiting:
                sent, self._waiting = self._waiting, []
                try:
                    results = await self._send([item for item, _ in sent])
                except Exception as error:  # noqa: BLE001 - it is theirs who wait
                    for _, result in sent:
                        if not result.done():
                            result.set_exception(error)
                    continue
                assert results, "nothing was done, and nothing would ever be"
                for value, (_, result) in zip(results, sent, strict=False):
                    if not result.done():
                        result.set_result(value)
                self._waiting = sent[len(results) :] + self._waiting
        finally:
            self._sending = None
