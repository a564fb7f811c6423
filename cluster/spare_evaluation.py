"""Evaluations beside training: on what capacity the samplers have to spare.

Held-out episodes ask for tokens behind every training episode, so they take the places that
training leaves free, and they stop nothing. Weights may change under them; an evaluation is that of
the versions from the one at which it began to the one at which it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from wfr.protocols import PeerLostError


class SpareEvaluations:
    """At most one evaluation at a time; one that falls due meanwhile is left out and counted."""

    def __init__(
        self,
        play: Callable[[], Awaitable[dict[str, Any]]],
        done: Callable[[int, dict[str, Any]], Awaitable[None]],
        note: Callable[[str], None],
    ) -> None:
        """`play` plays and scores; `done` gets the version that it began at and the scores."""
        self._play = play
        self._done = done
        self._note = note
        self._task: asyncio.Task[None] | None = None
        self._version = -1
        self.skipped = 0

    @property
    def version(self) -> int | None:
        """The version at which the evaluation began that is going on, if there is one."""
        return self._version if self._task is not None and not self._task.done() else None

    def begin(self, version: int) -> None:
        """Evaluate from now on, unless an earlier evaluation is still going on.

        Raises:
            Exception: what the earlier one has failed with, other than a lost worker.
        """
        if self._task is not None and not self._task.done():
            self._leave_out(f"evaluation of version {version}: the one before still goes on")
            return
        self.check()
        self._version = version
        self._task = asyncio.create_task(self._evaluate(version))

    def check(self) -> None:
        """Raise what the last evaluation has failed with."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def end(self) -> None:
        """Cut short what is going on."""
        if self._task is None:
            return
        if not self._task.done():
            self._task.cancel()
            self._leave_out("an evaluation that the end of the run cut short")
        await asyncio.gather(self._task, return_exceptions=True)

    async def _evaluate(self, version: int) -> None:
        try:
            result = await self._play()
        except PeerLostError as error:
            self._leave_out(f"evaluation of version {version}: a worker died ({error})")
        else:
            await self._done(version, result)

    def _leave_out(self, what: str) -> None:
        self.skipped += 1
        self._note(f"left out: {what}")
