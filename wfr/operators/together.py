"""Run coroutines at once, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; where one raises, or the caller is cancelled, nothing goes on.

    Unlike a TaskGroup it raises the first error as it is, not inside a group.
    """
    waiting = list(coroutines)
    if len(waiting) == 1:  # nothing to run it beside, so no task
        return [await waiting[0]]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in waiting]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        await stop(tasks)
        raise


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
