"""Shards: several buffers, each on a machine of its own, that look like one.

Group ids are dealt to the shards in turn, and a group's task follows from its id through the seeded
order of tasks, so a shard holds an even sample of the tasks. Every batch has a fixed share of each
shard; `wfr.staleness` says why the lag bound holds for the whole.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from wfr.groups import Admission, Batch, GroupMeta
from wfr.ledger import Ledger
from wfr.memory import Memory

T = TypeVar("T")


def shares(groups_per_batch: int, shards: int) -> list[int]:
    """Groups of every batch that each shard gives; raises ValueError where one would give none."""
    if not 1 <= shards <= groups_per_batch:
        raise ValueError(f"{shards} shards cannot share batches of {groups_per_batch} groups")
    return [len(range(shard, groups_per_batch, shards)) for shard in range(shards)]


class ShardedBuffer:
    """Has the methods of a buffer; every process has its own.

    A process that wants a slot waits at all shards at once, because a shard that nobody asks would
    keep a batch from getting full. A slot that comes while nobody waits is kept for the next call.
    """

    def __init__(self, shards: Sequence[Any]) -> None:
        """Join `wfr.buffer.ReplayBuffer`s, here or in other processes.

        Shard s has the ids that leave s when divided by the count of shards.
        """
        self._shards = list(shards)
        self._requests: dict[str, dict[int, asyncio.Future[Admission]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Take only the shards to another process."""
        return type(self), (self._shards,)

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot of any shard."""
        requests = self._requests.setdefault(worker, {})
        for index, shard in enumerate(self._shards):
            if index not in requests:
                requests[index] = asyncio.ensure_future(_call(shard.admit, worker))
        done, _ = await asyncio.wait(requests.values(), return_when=asyncio.FIRST_COMPLETED)
        # The oldest first: a shard whose slots come fast must not starve another.
        index = min((i for i, r in requests.items() if r in done), key=lambda i: _age(requests[i]))
        try:
            return requests.pop(index).result()
        except Exception:  # the shards are closed, or one has died: nobody will ask for the others
            for request in requests.values():
                request.add_done_callback(_note)
            raise

    async def admit_some(self, worker: str, most: int) -> list[Admission]:
        """Wait for a free slot; there may be more, but the shards have to take turns."""
        return [await self.admit(worker)]

    async def add(self, group_id: int, ref: Any, meta: GroupMeta) -> bool:
        """Hand in a finished group."""
        return bool(await self._shard(group_id).add(group_id, ref, meta))

    async def add_all(self, groups: Sequence[tuple[int, GroupMeta]], worker: Any) -> list[bool]:
        """Hand in finished groups of a worker; which of them are kept."""
        shards = sorted({group_id % len(self._shards) for group_id, _ in groups})
        parts = [[g for g in groups if g[0] % len(self._shards) == shard] for shard in shards]
        calls = (
            self._shards[shard].add_all(part, worker)
            for shard, part in zip(shards, parts, strict=True)
        )
        kept = dict(zip(shards, map(iter, await asyncio.gather(*calls)), strict=True))
        return [next(kept[group_id % len(self._shards)]) for group_id, _ in groups]

    async def abandon(self, group_id: int, reason: str, tokens: int = 0) -> bool:
        """Give up an unfinished group."""
        return bool(await self._shard(group_id).abandon(group_id, reason, tokens))

    async def requeue(self, worker: str) -> int:
        """Free the slots of a dead worker."""
        return sum(await self._all("requeue", worker))

    async def take(self) -> Batch[Any]:
        """Wait for every shard's share of the next batch."""
        parts: list[Batch[Any]] = await self._all("take")
        versions = {(part.batch_id, part.version) for part in parts}
        if len(versions) != 1:
            raise ValueError(f"the shards are at different batches: {sorted(versions)}")
        ((batch_id, version),) = versions
        entries = (entry for part in parts for entry in part.entries)
        replayed = (entry for part in parts for entry in part.replayed)
        return Batch(batch_id, version, _by_id(entries), _by_id(replayed))

    async def published(self, version: int, batch_id: int) -> None:
        """Tell every shard that the step is in force."""
        await self._all("published", version, batch_id)

    async def refuse(self, batch_id: int, reasons: Mapping[int, str], *, stepped: bool) -> None:
        """Tell every shard which groups of its share were refused."""
        parts: list[dict[int, str]] = [{} for _ in self._shards]
        for group_id, reason in reasons.items():
            parts[group_id % len(parts)][group_id] = reason
        calls = (
            _call(functools.partial(shard.refuse, stepped=stepped), batch_id, part)
            for shard, part in zip(self._shards, parts, strict=True)
        )
        await asyncio.gather(*calls)

    async def pause(self) -> None:
        """Admit nobody until `resume`."""
        await self._all("pause")

    async def resume(self) -> None:
        """End a pause."""
        await self._all("resume")

    async def close(self) -> None:
        """End every wait."""
        await self._all("close")

    async def force(self) -> None:
        """Force all that is booked to the disk."""
        await self._all("force")

    async def disk_full(self) -> bool:
        """Whether a ledger waits for room."""
        return any(await self._all("disk_full"))

    async def ledger(self) -> Ledger:
        """The books of all shards together."""
        return Ledger.from_state(_sum([ledger.state() for ledger in await self._all("ledger")]))

    async def memory(self) -> Memory:
        """The books on memory of all shards together."""
        parts: list[Memory] = await self._all("memory")
        return Memory(
            *(sum(getattr(p, name) for p in parts) for name in Memory.__dataclass_fields__)
        )

    async def gauges(self) -> dict[str, int]:
        """How many groups of all shards are in which state; and the version."""
        parts: list[dict[str, int]] = await self._all("gauges")
        return {**_sum(parts), "version": parts[0]["version"]}

    def _shard(self, group_id: int) -> Any:
        return self._shards[group_id % len(self._shards)]

    async def _all(self, method: str, *args: Any) -> list[Any]:
        calls = (_call(getattr(shard, method), *args) for shard in self._shards)
        return list(await asyncio.gather(*calls))


async def _call(method: Callable[..., Awaitable[T] | T], *args: Any) -> T:
    """Await the method of a shard in another process, or call that of one in this process."""
    result = method(*args)
    return await result if isinstance(result, Awaitable) else result


def _note(request: asyncio.Future[Admission]) -> None:
    """Take notice of an error that nobody will ask for."""
    if not request.cancelled():
        request.exception()


def _age(request: asyncio.Future[Admission]) -> int:
    return -1 if request.exception() else request.result().group_id


def _by_id(entries: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(entries, key=lambda entry: int(entry.group_id)))


def _sum(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        total[key] = _sum_counts(values) if isinstance(values[0], Mapping) else sum(values)
    return total


def _sum_counts(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(part) for part in parts), Counter[str]()))
