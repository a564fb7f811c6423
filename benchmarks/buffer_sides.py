"""The sides of the benchmark `buffer`: a producer and a consumer each, as Ray actors."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import ray
import torch
from ray.util.queue import Queue

from actors.worker import group_meta
from benchmarks.recorded import groups
from cluster.hand_over import HandOver, HostedBuffer, columns_of, pack
from cluster.remote import Remote
from wfr.buffer import ReplayBuffer
from wfr.columns import views
from wfr.groups import Admission, GroupMeta
from wfr.schema import to_batch
from wfr.selection import Rules
from wfr.trajectory import Group

TOKEN_COLUMNS = ("tokens", "turn_id", "behaviour_logprob")
AT_ONCE = 8
Made = Literal["nothing", "all but tokens", "all"]


class Producer:
    """A rollout worker that has finished many groups and hands them in, eight at a time."""

    def __init__(self, count: int, size: int, longest: int, seed: int = 0) -> None:
        torch.set_num_threads(1)
        self._groups = groups(count, size, longest, seed)
        self._batches = [to_batch(group) for group in self._groups]
        self._rest = [_rest(batch) for batch in self._batches]
        self._lists = [_with_lists(group) for group in self._groups]
        self._offered: dict[int, pa.RecordBatch] = {}

    def sizes(self) -> tuple[int, int]:
        """Bytes of all columns, and of the token columns."""
        rows = [row for group in self._groups for row in group.trajectories]
        tokens = sum(getattr(row, name).nbytes for row in rows for name in TOKEN_COLUMNS)
        return sum(batch.nbytes for batch in self._batches), tokens

    async def hand_over(self, group_ids: Sequence[int]) -> tuple[Any, ...]:
        """Give groups to the buffer."""
        return pack(self._offered, group_ids)

    async def put_arrow(self, buffer: Remote, made: Made, times: int = 1) -> float:
        """Seconds to hand all groups in; how much of their record batches is `made` already."""
        view_of_buffer = self._view(buffer)

        async def put(number: int) -> None:
            index = number % len(self._groups)
            group = self._groups[index]
            if made == "nothing":
                batch = to_batch(group)
            else:
                batch = self._batches[index]
                if made == "all but tokens":
                    batch = _with_tokens(batch, group)
            await _put(view_of_buffer, await view_of_buffer.admit("producer"), group, batch)

        return await _timed(put, times * len(self._groups))

    async def put_latency(self, buffer: Remote, producers: int, each: int, every: float) -> Any:
        """Seconds that many groups waited for their slot, and that each put took.

        A producer has its next group after `every`, on average.
        """
        view_of_buffer = self._view(buffer)
        rng = np.random.default_rng(producers)
        seconds: list[tuple[float, float]] = []

        async def produce(first: int) -> None:
            for number in range(first, first + each):
                await asyncio.sleep(rng.exponential(every))
                group = self._groups[number % len(self._groups)]
                batch = self._batches[number % len(self._groups)]
                started = time.perf_counter()
                admission = await view_of_buffer.admit("producer")
                admitted = time.perf_counter()
                await _put(view_of_buffer, admission, group, batch)
                seconds.append((admitted - started, time.perf_counter() - admitted))

        await asyncio.gather(*(produce(index * each) for index in range(producers)))
        return seconds

    def _view(self, buffer: Remote) -> HandOver:
        return HandOver(buffer, ray.get_runtime_context().current_actor, self._offered)

    async def put_transfer_queue(self) -> float:
        """Seconds to hand all groups in as jagged tensors, all columns, a call per group."""
        import transfer_queue
        from tensordict import TensorDict

        transfer_queue.init()

        async def put(number: int) -> None:
            rows = self._groups[number].trajectories
            fields = {name: _jagged([getattr(row, name) for row in rows]) for name in TOKEN_COLUMNS}
            fields["reward"] = torch.tensor([row.reward for row in rows])
            fields["rest"] = _jagged(self._rest[number])
            await transfer_queue.async_kv_batch_put(
                keys=[f"{number}/{sibling}" for sibling in range(len(rows))],
                partition_id="train",
                fields=TensorDict(fields, batch_size=len(rows)),
            )

        return await _timed(put, len(self._groups))

    async def put_queue(self, queue: Queue, *, lists: bool) -> float:
        """Seconds to put all groups as pickled objects, with lists of numbers or with arrays."""

        async def put(number: int) -> None:
            await queue.put_async(self._lists[number] if lists else self._groups[number])

        return await _timed(put, len(self._groups))


class Consumer:
    """A learner rank that takes everything at once and makes tensors of it."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def take_arrow(self, buffer: Remote, *, touch: bool = False) -> tuple[float, int]:
        """Seconds from asking for the batch to tensors; and their bytes."""
        started = time.perf_counter()
        batch = ray.get(buffer.handle.take.remote())
        held = _fetch([entry.ref[0] for entry in batch.entries])
        found = _tensors(held)
        if touch:
            for tensor in found:
                tensor.sum()
        seconds = time.perf_counter() - started
        total = sum(tensor.nbytes for tensor in found)
        del found, held
        ray.get(buffer.handle.published.remote(batch.version + 1, batch.batch_id))
        return seconds, total

    def read_against_memcpy(self, buffer: Remote) -> tuple[float, float, float]:
        """Seconds to map the columns of a taken batch; also to pack them; to copy these bytes.

        All references are fetched inside the first of these. The copies go to new memory, as a
        reader's would.
        """
        batch = ray.get(buffer.handle.take.remote())
        refs = [entry.ref[0] for entry in batch.entries]
        started = time.perf_counter()
        found = _tensors(_fetch(refs))
        mapped = time.perf_counter() - started
        for column in range(3):
            torch.cat(found[column::3])
        packed = time.perf_counter() - started
        sources = [np.concatenate(found[column::3]) for column in range(3)]
        started = time.perf_counter()
        for source in sources:
            source.copy()
        copied = time.perf_counter() - started
        del found
        ray.get(buffer.handle.published.remote(batch.version + 1, batch.batch_id))
        return mapped, packed, copied

    def take_transfer_queue(self, groups: int, size: int) -> tuple[float, int]:
        """Seconds to get everything as tensors; and their bytes."""
        import transfer_queue

        transfer_queue.init()
        keys = [f"{group}/{sibling}" for group in range(groups) for sibling in range(size)]
        started = time.perf_counter()
        data = transfer_queue.kv_batch_get(keys=keys, partition_id="train")
        seconds = time.perf_counter() - started
        total = sum(data[name].values().nbytes for name in TOKEN_COLUMNS)
        del data
        transfer_queue.kv_clear(keys=keys, partition_id="train")
        return seconds, total

    def take_queue(self, queue: Queue, groups: int) -> tuple[float, int]:
        """Seconds to get all groups and make tensors of them; and their bytes."""
        kinds = (torch.int32, torch.int16, torch.float32)
        started = time.perf_counter()
        total = 0
        for _ in range(groups):
            group = queue.get()
            for row in group.trajectories:
                for name, kind in zip(TOKEN_COLUMNS, kinds, strict=True):
                    total += torch.as_tensor(getattr(row, name), dtype=kind).nbytes
        return time.perf_counter() - started, total


def _fetch(refs: Iterable[Any]) -> list[pa.RecordBatch]:
    """The columns of a batch, as Ray gives them to a learner rank: all references at once."""
    places = list(refs)
    held = iter(ray.get([place for place in places if isinstance(place, ray.ObjectRef)]))
    found = (next(held) if isinstance(place, ray.ObjectRef) else place for place in places)
    return [columns_of(place) for place in found]


def _tensors(batches: Sequence[pa.RecordBatch]) -> list[torch.Tensor]:
    return [
        torch.from_numpy(getattr(episode, name))
        for group in views(batches)
        for episode in group.trajectories
        for name in TOKEN_COLUMNS
    ]


async def _put(buffer: HandOver, admission: Admission, group: Group, batch: pa.RecordBatch) -> None:
    meta = group_meta(group, {}, batch.nbytes)
    meta = dataclasses.replace(meta, oldest_version=admission.version)
    assert await buffer.add(admission.group_id, batch, meta)


async def _timed(put: Callable[[int], Awaitable[None]], count: int) -> float:
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await put(number)

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return time.perf_counter() - started


def _rest(batch: pa.RecordBatch) -> list[np.ndarray]:
    """All that is not a token column, as bytes, a row for each trajectory."""
    others = [name for name in batch.schema.names if name not in TOKEN_COLUMNS]
    rows = (batch.select(others).slice(row, 1) for row in range(batch.num_rows))
    return [np.frombuffer(row.serialize(), np.uint8).copy() for row in rows]


def _with_tokens(batch: pa.RecordBatch, group: Group) -> pa.RecordBatch:
    """The batch with token columns that are joined from the arrays of its trajectories."""
    for name in TOKEN_COLUMNS:
        arrays = [getattr(row, name) for row in group.trajectories]
        offsets = pa.array(np.cumsum([0, *map(len, arrays)]), pa.int32())
        column = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(arrays)))
        batch = batch.set_column(
            batch.schema.get_field_index(name), batch.schema.field(name), column
        )
    return batch


def _jagged(rows: Iterable[np.ndarray]) -> torch.Tensor:
    tensors = [torch.from_numpy(row) for row in rows]
    return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)


def _with_lists(group: Group) -> Group:
    rows = [
        dataclasses.replace(row, **{name: getattr(row, name).tolist() for name in TOKEN_COLUMNS})
        for row in group.trajectories
    ]
    return dataclasses.replace(group, trajectories=rows)


class MeasuredBuffer(HostedBuffer):
    """The hosted buffer, and what its process takes."""

    def private(self) -> int:
        """Bytes of this process that are not shared with others."""
        info = psutil.Process().memory_info()
        return int(info.rss - info.shared)


class Index:
    """A buffer's index alone, with references as small as Ray's."""

    async def fill(self, count: int, groups_per_batch: int) -> tuple[int, float]:
        """Bytes that so many finished groups take, and seconds of one `take` among them."""
        buffer = ReplayBuffer[Any](Rules(-(-count // groups_per_batch) - 1, groups_per_batch))
        before = psutil.Process().memory_info().rss
        for _ in range(count):
            admission = await buffer.admit("worker")
            reference = (os.urandom(28),)
            meta = GroupMeta(8, 8, 27_000, admission.version, {}, 400_000, 0.5)
            await buffer.add(admission.group_id, reference, meta)
        taken = psutil.Process().memory_info().rss - before
        started = time.perf_counter()
        await buffer.take()
        return taken, time.perf_counter() - started
