"""Saving: checkpoints, what they make superfluous, and what happens when the disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable
from typing import Any

from cluster.gang import together
from cluster.resume import prune
from cluster.run_state import RunState
from wfr.compaction import compact


class Saving:
    """Writes checkpoints, and watches the room for them and for groups."""

    def __init__(self, state: RunState) -> None:
        """Of this run."""
        self._state = state

    async def checkpoint(self) -> None:
        """Write a checkpoint; it acknowledges every group of the steps before it."""
        target = self._state.directory.checkpoint(self._state.version)
        state = {"run": self._state.config.run.name, "steps": self._state.tally.steps}
        await self._state.topology.buffer.force()  # a checkpoint must not know more than the ledger
        await self._with_room(
            lambda: together(self._state.topology.ranks, "save", str(target), state)
        )
        await asyncio.to_thread(self._acknowledge)
        self._state.progress.note(f"checkpoint {target}")

    async def _with_room(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do `work`; where the disk is full, wait for room and do it again."""
        full = False
        while True:
            try:
                await work()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if not full:
                    self._tell_disk(full=True, who="checkpoints")
                full = True
                await asyncio.sleep(_WATCH_S)
            else:
                break
        if full:
            self._tell_disk(full=False, who="checkpoints")

    def _acknowledge(self) -> None:
        """What is older than the newest checkpoint is not needed to go on."""
        prune(self._state.directory.path, self._state.config.train.keep_states)
        if self._state.config.journal.compact == "acknowledged":
            compact(
                self._state.directory.path,
                self._state.config.buffer.max_lag,
                self._state.config.buffer.shards,
            )

    async def watch_disk(self) -> None:
        """Say when the disk is full and when there is room again, for as long as the run lasts."""
        full = False
        self._state.record("disk", {"disk/full": 0})
        while True:
            await asyncio.sleep(_WATCH_S)
            states = await asyncio.gather(
                *(worker.disk_full() for worker in self._state.topology.workers),
                self._state.topology.buffer.disk_full(),
                return_exceptions=True,
            )
            if any(state is True for state in states) != full:
                full = not full
                self._tell_disk(full=full, who="groups")

    def _tell_disk(self, *, full: bool, who: str) -> None:
        path = self._state.directory.path
        self._state.progress.note(
            f"THE DISK IS FULL: {who} wait for room under {path}; nothing is lost"
            if full
            else f"there is room on the disk again: {who} go on"
        )
        with contextlib.suppress(OSError):
            self._state.record("disk", {"disk/full": int(full)})


_WATCH_S = 5.0
