"""Tasks that run beside a main one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Tasks that serve a main one; the first error among them ends it."""

    def __init__(self, coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Start them."""
        self._tasks = {asyncio.create_task(coroutine) for coroutine in coroutines}

    async def race(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end; raises at once what a background task raises."""
        task = asyncio.create_task(main)
        pending = {task, *self._tasks}
        while not task.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            failed = next((t for t in done if t is not task and t.exception()), None)
            if failed is not None:
                task.cancel()
                failed.result()
        return task.result()

    async def cancel(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[Background]:
    """Run coroutines beside the block and end them with it."""
    tasks = Background(coroutines)
    try:
        yield tasks
    finally:
        await tasks.cancel()
