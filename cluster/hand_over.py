"""Hand-over: a finished group goes from its worker into the object store once, and outlives it.

Ray frees an object with the process that owns it, and a process owns what it puts and what its own
calls return. So the buffer calls the worker for the group: the worker writes the columns into
shared memory and the buffer owns them. There a group is one Arrow IPC message, which is one buffer
to map, where a pickled record batch has sixty.

A call costs more than the bytes of a group do. So groups that are finished while the buffer is
busy with others are handed over in one call, and slots are asked for alike.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from ray.exceptions import ObjectLostError, RayActorError

from cluster.heart import Heart
from wfr.buffer import ReplayBuffer
from wfr.bundle import Bundle
from wfr.groups import Admission, GroupMeta
from wfr.history import EventLog
from wfr.journal import Record
from wfr.line_log import Fsync, Sync
from wfr.recovery import Shard
from wfr.schema import SCHEMA
from wfr.selection import Rules
from wfr.spill import SpillDirectory, Spilled


class HandOver:
    """The buffer as a worker sees it: groups wait in `offered` until the buffer has them."""

    def __init__(self, buffer: Any, worker: Any, offered: dict[int, pa.RecordBatch]) -> None:
        """`worker` is the handle of the actor whose `hand_over` packs what is `offered`."""
        self._buffer = buffer
        self._worker = worker
        self._offered = offered
        self._adding = Bundle(self._add_all)
        self._admitting: dict[str, Bundle[str, Admission]] = {}

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot."""
        if worker not in self._admitting:
            self._admitting[worker] = Bundle(self._admit_some)
        return await self._admitting[worker](worker)

    async def add(self, group_id: int, ref: pa.RecordBatch, meta: GroupMeta) -> bool:
        """Hand in a finished group."""
        self._offered[group_id] = ref
        try:
            return await self._adding((group_id, meta))
        finally:
            self._offered.pop(group_id, None)  # gone already, where it was handed in twice

    async def _add_all(self, groups: Sequence[tuple[int, GroupMeta]]) -> list[bool]:
        kept: list[bool] = await self._buffer.add_all(groups, self._worker)
        return kept

    async def _admit_some(self, workers: Sequence[str]) -> list[Admission]:
        admissions: list[Admission] = await self._buffer.admit_some(workers[0], len(workers))
        return admissions


def pack(offered: Mapping[int, pa.RecordBatch], group_ids: Sequence[int]) -> tuple[Any, ...]:
    """What a worker answers a buffer that asks for groups: one IPC message each, and that is all.

    The last value is there to be waited for: the others may stay on the worker's machine.
    """
    return *(offered[group_id].serialize() for group_id in group_ids), True


class HostedBuffer(Heart, ReplayBuffer[tuple[Any]]):
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
            await self.add(group_id, (record,), dataclasses.replace(meta, size=0))

    async def add_all(self, groups: Sequence[tuple[int, GroupMeta]], worker: Any) -> list[bool]:
        """Fetch groups from a worker; which of them are kept: none where it has died."""
        ask = worker.hand_over.options(num_returns=len(groups) + 1)
        *columns, done = ask.remote([group_id for group_id, _ in groups])
        try:
            await done
        except RayActorError:
            return [False] * len(groups)
        adding = (
            self.add(group_id, (ref,), meta)
            for (group_id, meta), ref in zip(groups, columns, strict=True)
        )
        return await asyncio.gather(*adding)


class _Files:
    """A store whose references are Ray's, or files."""

    def __init__(self, directory: str) -> None:
        self._files = SpillDirectory(directory)

    async def spill(self, group_id: int, ref: tuple[Any]) -> tuple[Any]:
        try:
            message = await ref[0]
        except ObjectLostError as error:  # whoever takes it finds it in the journal
            raise OSError(f"group {group_id} has gone with its machine") from error
        return (await asyncio.to_thread(self._files.write, group_id, columns_of(message)),)

    def free(self, ref: tuple[Any]) -> None:
        self._files.free(ref[0])


def columns_of(ref: pa.Buffer | Spilled | Record) -> pa.RecordBatch:
    """What a learner rank was given: a message in shared memory, or the file to map."""
    return (
        ref.read() if isinstance(ref, Spilled | Record) else pa.ipc.read_record_batch(ref, SCHEMA)
    )
