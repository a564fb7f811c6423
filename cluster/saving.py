"""Saving: checkpoints, what they make superfluous, and what happens when the disk is full.

A checkpoint comes about in this order, and each event waits for the one before:

1. its version is in force in every sampler, and the ledger that says so is on the disk;
2. every rank has copied what belongs to it: the snapshot, for which training stands still;
3. every rank has written its files and forced them to the disk, while training goes on;
4. the directory gets its name: from here on the checkpoint counts;
5. groups of the steps before it are acknowledged, and older checkpoints go as the policy says;
6. it is copied to its second place, if there is one (`cluster.checkpoint_store`).

A crash at any moment leaves the last checkpoint that had come as far as 4, and all that is needed
to repeat the steps since. One checkpoint is written at a time: the next waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from cluster.checkpoint_store import CheckpointStore, Edges
from cluster.copying import Copying
from cluster.gang import LearnerLostError, together
from cluster.retention import retain
from cluster.run_state import RunState
from wfr.checkpoint_directory import begin, seal
from wfr.compaction import compact


class Saving:
    """Writes checkpoints, and watches the room for them and for groups."""

    def __init__(self, state: RunState, needed: Callable[[], Collection[int]]) -> None:
        """Of this run; `needed` are versions whose checkpoints are not to go yet."""
        self._state = state
        self._needed = needed
        self._writing: asyncio.Task[None] | None = None
        policy, run = state.config.checkpoints, state.config.run.name
        store = CheckpointStore(policy.url, run) if policy.url is not None else None
        self._copying = Copying(store, state.directory.path, policy, state.progress.note)

    async def checkpoint(self) -> None:
        """Take a checkpoint of the version in force; its files are written beside training.

        Raises:
            LearnerLostError: a rank has died, over this one or over the one before.
        """
        await self.settled()
        started, version = time.monotonic(), self._state.version
        target = self._state.directory.checkpoint(version)
        about = {"run": self._state.config.run.name, "steps": self._state.tally.steps}
        await self._state.topology.buffer.force()  # a checkpoint must not know more than the ledger
        edges = Edges.of(self._state.directory.path)
        await together(self._state.topology.ranks, "snapshot", about)
        stall_s = time.monotonic() - started
        self._writing = asyncio.create_task(self._write(target, version, stall_s, edges))

    async def last(self) -> None:
        """The checkpoint that ends the run: it is whole when this returns."""
        await self.checkpoint()
        await self.settled()

    async def settled(self) -> None:
        """Wait until nothing is being written; raises what the writing has failed with."""
        await self.written()
        self.check()

    async def written(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def check(self) -> None:
        """Raise, once, what the last writing has failed with."""
        if self._writing is not None and self._writing.done():
            task, self._writing = self._writing, None
            task.result()

    async def abandon(self) -> None:
        """The ranks are gone: what they had not written is lost."""
        with contextlib.suppress(LearnerLostError):
            await self.settled()

    async def end(self) -> None:
        """The run is over, in whatever way: let a checkpoint become whole if it soon can."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_LAST_WRITING_S)
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._copying.end(_LAST_COPY_S)

    async def _write(self, target: Path, version: int, stall_s: float, edges: Edges) -> None:
        started, ranks = time.monotonic(), self._state.topology.ranks
        try:
            place = await self._with_room(partial(asyncio.to_thread, begin, target))
            await self._with_room(lambda: together(ranks, "write", str(place)))
        except LearnerLostError:
            self._state.progress.note(f"checkpoint {version} is lost with the learner")
            self._state.learner_lost.set()  # training may be waiting for a batch
            raise
        await asyncio.to_thread(seal, target)
        self._copying.offer(version, edges)
        await asyncio.to_thread(self._acknowledge, version)
        write_s = time.monotonic() - started
        self._state.record(
            "checkpoint",
            {
                "version": version,
                "checkpoint/stall_seconds": stall_s,
                "checkpoint/write_seconds": write_s,
            },
        )
        self._state.progress.note(
            f"checkpoint {target} (training stood still for {stall_s:.2f} s, writing {write_s:.2f})"
        )

    async def _with_room(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do `work`; where the disk is full, wait for room and do it again."""
        full = False
        while True:
            try:
                done = await work()
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
        return done

    def _acknowledge(self, version: int) -> None:
        """What is older than the checkpoint of `version`, which is whole, is not needed any more.

        Steps published since then are not covered: training went on while it was written.
        """
        config, run = self._state.config, self._state.directory.path
        retain(
            run, config.checkpoints, config.train.keep_states, self._needed(), self._copying.held
        )
        if config.journal.compact == "acknowledged":
            compact(run, config.buffer.max_lag, config.buffer.shards, version)

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
_LAST_WRITING_S = 15.0
_LAST_COPY_S = 600.0
