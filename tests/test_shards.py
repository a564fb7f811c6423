"""Several shards look like one buffer: bound, ledger, order, and no wait that never ends."""

from __future__ import annotations

import asyncio
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.buffer import BufferClosedError, ReplayBuffer
from wfr.groups import GroupMeta
from wfr.selection import Rules
from wfr.shards import ShardedBuffer, shares
from wfr.simulation import FakeCluster, groups_per_second


def sharded(max_lag, groups_per_batch, shards):
    parts = shares(groups_per_batch, shards)
    return [ReplayBuffer(Rules(max_lag, n), shard=i, shards=shards) for i, n in enumerate(parts)]


@given(st.integers(1, 200), st.data())
def test_shares_are_even_and_add_up(groups, data):
    shards = data.draw(st.integers(1, groups))
    parts = shares(groups, shards)
    assert (len(parts), sum(parts)) == (shards, groups)
    assert max(parts) - min(parts) <= 1


def test_a_shard_without_a_share_is_refused():
    with pytest.raises(ValueError, match="3 shards cannot share batches of 2 groups"):
        shares(2, 3)


@pytest.mark.parametrize("workers", [1, 5])
@given(
    max_lag=st.integers(0, 3),
    groups=st.integers(1, 7),
    shards=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_run_over_shards(workers, max_lag, groups, shards, seed):
    """Every worker waits like a real one; groups have long tails; the learner is never starved."""
    parts = sharded(max_lag, groups, min(shards, groups))

    async def play(buffer, admission, rng):
        for _ in range(rng.choice([1, 1, 2, 30])):
            await asyncio.sleep(0)
        scored = rng.choice([1, 2, 2, 2])
        meta = GroupMeta(2, scored, rng.randint(1, 9), admission.version)
        await buffer.add(admission.group_id, f"ref{admission.group_id}", meta)

    async def worker(name, rng):
        buffer = ShardedBuffer(parts)  # every process has its own
        async with asyncio.TaskGroup() as playing:
            while True:
                try:
                    admission = await buffer.admit(name)
                except BufferClosedError:
                    return
                playing.create_task(play(buffer, admission, rng))

    async def main():
        learner = ShardedBuffer(parts)
        tasks = [
            asyncio.create_task(worker(f"w{i}", random.Random(seed + i))) for i in range(workers)
        ]
        seen = []
        for step in range(12):
            async with asyncio.timeout(20):
                batch = await learner.take()
            assert batch.version == step
            assert len(batch.entries) == groups
            assert all(step - entry.admitted_version <= max_lag for entry in batch.entries)
            seen += [entry.group_id for entry in batch.entries]
            await learner.published(step + 1, batch.batch_id)
            for part in parts:
                part.check_valid()
            ledger = await learner.ledger()
            assert ledger.missing == 0
            assert ledger.groups_consumed == len(seen)
        assert len(set(seen)) == len(seen)
        gauges = await learner.gauges()
        assert gauges["version"] == 12
        await learner.close()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_slot_that_comes_while_nobody_waits_is_kept_for_the_next_call():
    async def main():
        buffer = ShardedBuffer(sharded(0, 2, 2))
        first = await buffer.admit("w")
        second = await buffer.admit("w")
        assert buffer._requests["w"].keys() == {first.group_id % 2} or not buffer._requests["w"]
        return sorted([first.group_id, second.group_id])

    assert asyncio.run(main()) == [0, 1]


def test_only_the_shards_go_to_another_process():
    async def main():
        buffer = ShardedBuffer(["a", "b"])
        buffer._requests["w"] = {0: asyncio.get_running_loop().create_future()}
        return pickle.loads(pickle.dumps(buffer))

    other = asyncio.run(main())
    assert (other._shards, other._requests) == (["a", "b"], {})


def test_a_dead_workers_slots_are_freed_everywhere():
    async def main():
        parts = sharded(0, 4, 2)
        buffer = ShardedBuffer(parts)
        for _ in range(4):
            await buffer.admit("dead")
        assert await buffer.requeue("dead") == 4
        return [(await buffer.admit("alive")).group_id for _ in range(4)], await buffer.ledger()

    ids, ledger = asyncio.run(main())
    assert sorted(ids) == [4, 5, 6, 7]
    assert ledger.groups_dropped == {"worker_lost": 4}


@pytest.mark.soak
def test_throughput_grows_with_the_shards_until_the_slots_are_the_limit():
    """In virtual time, so the numbers are exact: a call occupies its shard for half a millisecond.

    A group costs a shard two calls, so one shard serves 1000 groups a second at most.
    """
    rates = {shards: groups_per_second(FakeCluster(), shards, steps=30) for shards in (1, 2, 4)}
    assert 700 < rates[1] < 1000
    assert rates[2] > 1.6 * rates[1]
    assert rates[4] > 1.7 * rates[2]
    tight = FakeCluster(max_lag=1)  # 256 slots, a group holds one for 0.2 s: 1280 a second at most
    assert rates[1] * 0.6 < groups_per_second(tight, 4, steps=10) < 1280


def test_refused_groups_are_told_to_their_shards():
    """A shard that lost its whole share still takes part in the version, unless there was none."""
    parts = sharded(0, 3, 2)
    buffer = ShardedBuffer(parts)

    async def batch():
        for _ in range(3):
            admission = await buffer.admit("w")
            await buffer.add(admission.group_id, "ref", GroupMeta(2, 2, 10, admission.version))
        return await buffer.take()

    async def main():
        first = await batch()
        await buffer.refuse(first.batch_id, {1: "invalid"}, stepped=True)
        await buffer.published(1, first.batch_id)
        second = await batch()
        gone = [entry.group_id for entry in second.entries]
        await buffer.refuse(second.batch_id, dict.fromkeys(gone, "not_finite"), stepped=False)
        third = await batch()
        for part in parts:
            part.check_valid()
        return second, third, await buffer.ledger()

    second, third, ledger = asyncio.run(main())
    assert second.version == third.version == 1
    assert ledger.discarded == {"invalid": 10, "not_finite": 30}
    assert (ledger.consumed, ledger.waiting) == (20, 30)
