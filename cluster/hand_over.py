"""Hand-over: a finished group goes from its worker into the object store once, and outlives it.

Ray frees an object with the process that owns it, and a process owns what it puts and what its own
calls return. So the buffer calls the worker for the group: the worker writes the columns straight
into shared memory, which is the only copy, and the buffer owns them.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from ray.exceptions import RayActorError

from actors.worker import BufferLike
from wfr.buffer import ReplayBuffer
from wfr.groups import Admission, GroupMeta
from wfr.history import EventLog
from wfr.journal import Record
from wfr.line_log import Fsync, Sync
from wfr.recovery import Shard
from wfr.selection import Rules
from wfr.spill import SpillDirectory, Spilled


class HandOver:
    """The buffer as a worker sees it: groups wait in `offered` until the buffer has them."""

    def __init__(self, buffer: Any, worker: Any, offered: dict[int, pa.RecordBatch]) -> None:
        """`worker` is the handle of the actor whose `hand_over` reads `offered`."""
        self._buffer: BufferLike = buffer
        self._worker = worker
        self._offered = offered

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot."""
        return await self._buffer.admit(worker)

    async def add(self, group_id: int, ref: pa.RecordBatch, meta: GroupMeta) -> bool:
        """Hand in a finished group."""
        self._offered[group_id] = ref
        try:
            return await self._buffer.add(group_id, self._worker, meta)
        finally:
            del self._offered[group_id]


class HostedBuffer(ReplayBuffer[tuple[Any]]):
    """The replay buffer over Ray's object store.

    A reference is kept in a tuple, because Ray resolves bare ones.
    """

    def __init__(
        self,
        rules: Rules,
        settings: Mapping[str, int],
        spill_directory: str,
        ledger: str,
        fsync: Fsync,
    ) -> None:
        """Keep at most `memory_bytes` of `settings` in the object store; book in `ledger`."""
        log = EventLog(ledger, Sync(fsync))
        super().__init__(rules, store=_Files(spill_directory), log=log, **settings)

    async def recover(self, shard: Shard) -> None:
        """Go on after a restart, before anybody else calls."""
        self.restore(shard.state)
        for group_id, record, meta in shard.finished:
            await super().add(group_id, (record,), dataclasses.replace(meta, size=0))

    async def add(self, group_id: int, ref: Any, meta: GroupMeta) -> bool:
        """Fetch a group from the worker `ref`; False as well where the worker has died."""
        columns, done = ref.hand_over.options(num_returns=2).remote(group_id)
        try:
            await done  # and not the columns, which may stay on the worker's machine
        except RayActorError:
            return False
        return await super().add(group_id, (columns,), meta)


class _Files:
    """A store whose references are Ray's, or files."""

    def __init__(self, directory: str) -> None:
        self._files = SpillDirectory(directory)

    async def spill(self, group_id: int, ref: tuple[Any]) -> tuple[Any]:
        columns = await ref[0]
        return (await asyncio.to_thread(self._files.write, group_id, columns),)

    def free(self, ref: tuple[Any]) -> None:
        self._files.free(ref[0])


def columns_of(ref: pa.RecordBatch | Spilled | Record) -> pa.RecordBatch:
    """What a learner rank was given: columns in shared memory, or the file to map."""
    return ref.read() if isinstance(ref, Spilled | Record) else ref
