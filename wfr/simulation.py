"""A cluster in virtual time: how fast shards of the buffer can serve many workers.

The buffers are real, the rest is fake: a call occupies its shard for a fixed time, an episode and a
step take theirs, and the clock jumps to the next event instead of waiting for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any

from wfr.buffer import BufferClosedError, ReplayBuffer
from wfr.groups import Admission, Batch, GroupMeta
from wfr.selection import Rules
from wfr.shards import ShardedBuffer, shares


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which nothing takes time but what is scheduled for later."""

    _now = 0.0

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _run_once(self) -> None:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


@dataclasses.dataclass(frozen=True, slots=True)
class FakeCluster:
    """What there is, and how long it takes (seconds).

    Attributes:
        workers: rollout workers; they play as many groups as there are slots.
        episode_s: mean time of a group, between half and one and a half of it.
        call_s: time for which one call occupies a shard.
        step_s: time of the learner's step.
    """

    workers: int = 64
    groups_per_batch: int = 128
    max_lag: int = 8
    episode_s: float = 0.2
    call_s: float = 0.0005
    step_s: float = 0.001


def groups_per_second(cluster: FakeCluster, shards: int, steps: int = 40) -> float:
    """Groups that a run over so many shards consumes per virtual second; asserts the lag bound."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        seconds: float = runner.run(_run(cluster, shards, steps))
    return steps * cluster.groups_per_batch / seconds


class _Shard(ReplayBuffer[None]):
    """A buffer in a process that answers one call at a time."""

    def __init__(self, rules: Rules, call_s: float, **settings: Any) -> None:
        super().__init__(rules, **settings)
        self._call_s = call_s
        self._process = asyncio.Lock()

    async def admit(self, worker: str) -> Admission:
        await self._work()
        return await super().admit(worker)

    async def add(self, group_id: int, ref: None, meta: GroupMeta) -> bool:
        await self._work()
        return await super().add(group_id, ref, meta)

    async def take(self) -> Batch[None]:
        await self._work()
        return await super().take()

    async def _work(self) -> None:
        async with self._process:
            await asyncio.sleep(self._call_s)


async def _run(cluster: FakeCluster, shards: int, steps: int) -> float:
    parts = [
        _Shard(Rules(cluster.max_lag, share), cluster.call_s, shard=index, shards=shards)
        for index, share in enumerate(shares(cluster.groups_per_batch, shards))
    ]
    learner = ShardedBuffer(parts)
    playing = [
        asyncio.create_task(_worker(cluster, ShardedBuffer(parts), f"worker-{index}"))
        for index in range(cluster.workers)
    ]
    for version in range(steps):
        batch = await learner.take()
        stale = max(batch.version - entry.admitted_version for entry in batch.entries)
        assert stale <= cluster.max_lag
        await asyncio.sleep(cluster.step_s)
        await learner.published(version + 1, batch.batch_id)
    seconds = asyncio.get_running_loop().time()
    await learner.close()
    await asyncio.gather(*playing)
    return seconds


async def _worker(cluster: FakeCluster, buffer: ShardedBuffer, name: str) -> None:
    rng = random.Random(name)

    async def play(admission: Admission) -> None:
        await asyncio.sleep(cluster.episode_s * rng.uniform(0.5, 1.5))
        await buffer.add(admission.group_id, None, GroupMeta(8, 8, 1, admission.version))

    async with asyncio.TaskGroup() as episodes:
        while True:
            try:
                admission = await buffer.admit(name)
            except BufferClosedError:
                return
            episodes.create_task(play(admission))
