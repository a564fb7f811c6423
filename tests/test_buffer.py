import asyncio
import dataclasses
import itertools
import pickle
import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wfr.buffer import BufferClosedError, ReplayBuffer
from wfr.groups import Admission, GroupMeta
from wfr.selection import Rules


def meta(tokens=10, scored=2, siblings=2, version=0, size=0, spread=0.0, **discarded):
    return GroupMeta(siblings, scored, tokens, version, discarded, size, spread)


class Shelf:
    """A store that keeps what it gets, and fails when told to."""

    def __init__(self):
        self.held = {}
        self.full = False

    async def spill(self, group_id, ref):
        await asyncio.sleep(0)
        if self.full:
            raise OSError(28, "No space left on device")
        self.held[group_id] = ref
        return ("shelf", group_id)

    def free(self, ref):
        del self.held[ref[1]]


async def settle(awaitable):
    """The result if the awaitable needs to wait for nobody, else None; it is then cancelled."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(4):
        await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


async def admit_all(buffer):
    """Take every free slot; the ids."""
    ids = []
    while (admission := await settle(buffer.admit("w"))) is not None:
        ids.append(admission.group_id)
    return ids


async def finish(buffer, *ids):
    for group_id in ids:
        await buffer.add(group_id, f"ref{group_id}", meta(version=buffer.version))


def ids_of(batch):
    return [entry.group_id for entry in batch.entries] if batch else None


def run(coroutine):
    return asyncio.run(coroutine)


def test_lag_zero_is_the_synchronous_system():
    async def main():
        buffer = ReplayBuffer(Rules(0, 2))
        events = []
        for version in range(3):
            events.append(await admit_all(buffer))
            await finish(buffer, events[-1][0])
            assert await settle(buffer.take()) is None
            await finish(buffer, events[-1][1])
            batch = await buffer.take()
            assert await admit_all(buffer) == []
            await buffer.published(version + 1, batch.batch_id)
            events.append((batch.version, ids_of(batch)))
        return events

    assert run(main()) == [[0, 1], (0, [0, 1]), [2, 3], (1, [2, 3]), [4, 5], (2, [4, 5])]


def test_slots_come_back_at_publication_not_at_take():
    async def main():
        buffer = ReplayBuffer(Rules(1, 2))
        await finish(buffer, *await admit_all(buffer))
        batch = await buffer.take()
        assert await admit_all(buffer) == []
        waiting = asyncio.create_task(buffer.admit("w"))
        await asyncio.sleep(0)
        await buffer.published(1, batch.batch_id)
        return await waiting

    admission = run(main())
    assert (admission.group_id, admission.version) == (4, 1)


def test_younger_groups_overtake_a_straggler_until_its_deadline():
    """B = 1, max_lag = 1: group 0 may be passed once, then it is waited for."""

    async def main():
        buffer = ReplayBuffer(Rules(1, 1))
        assert await admit_all(buffer) == [0, 1]
        await finish(buffer, 1)
        first = await buffer.take()
        await buffer.published(1, first.batch_id)
        assert await admit_all(buffer) == [2]
        await finish(buffer, 2)
        assert await settle(buffer.take()) is None
        await finish(buffer, 0)
        return ids_of(first), ids_of(await buffer.take())

    assert run(main()) == ([1], [0])


def test_oldest_finished_groups_go_first_and_only_from_the_window():
    async def main():
        buffer = ReplayBuffer(Rules(4, 1, window=2))
        assert await admit_all(buffer) == [0, 1, 2, 3, 4]
        await finish(buffer, 4, 3, 2)
        assert await settle(buffer.take()) is None
        await finish(buffer, 1)
        first = ids_of(await buffer.take())
        return first, ids_of(await buffer.take())

    assert run(main()) == ([1], [2])


def test_a_second_batch_may_be_taken_before_the_first_is_published():
    async def main():
        buffer = ReplayBuffer(Rules(1, 2))
        await finish(buffer, *await admit_all(buffer))
        first, second = await buffer.take(), await buffer.take()
        with pytest.raises(ValueError, match="expected version 1 of batch 0"):
            await buffer.published(1, second.batch_id)
        await buffer.published(1, first.batch_id)
        await buffer.published(2, second.batch_id)
        return first.version, second.version, buffer.version

    assert run(main()) == (0, 1, 2)


@pytest.mark.parametrize(
    ("incomplete", "scored", "siblings", "reason"),
    [
        ("take", 1, 4, "too_few_scored"),
        ("take", 0, 1, "too_few_scored"),
        ("take", 2, 4, None),
        ("take", 1, 1, None),
        ("drop", 3, 4, "incomplete"),
        ("drop", 4, 4, None),
        ("wait", 3, 4, "incomplete"),
    ],
)
def test_groups_without_enough_siblings_are_discarded_and_free_their_slot(
    incomplete, scored, siblings, reason
):
    async def main():
        buffer = ReplayBuffer(Rules(0, 1, incomplete=incomplete))
        admission = await buffer.admit("w")
        kept = await buffer.add(admission.group_id, "ref", meta(10, scored, siblings, retried=3))
        buffer.check_valid()
        return kept, await admit_all(buffer), buffer.ledger()

    kept, freed, ledger = run(main())
    assert kept is (reason is None)
    assert freed == ([] if kept else [1])
    assert ledger.generated == 13
    assert ledger.waiting == (10 if kept else 0)
    assert ledger.discarded == Counter({"retried": 3} if kept else {"retried": 3, reason: 10})


def test_groups_of_equal_rewards_are_sampled_anew_a_bounded_number_of_times():
    """Two per batch: their slots come back at once, with the version that is published then."""

    async def main():
        buffer = ReplayBuffer(Rules(1, 1, resamples=2))
        flat = meta(siblings=2, scored=2)
        flat = dataclasses.replace(flat, flat=True)
        kept = []
        for _ in range(2):
            ids = await admit_all(buffer)
            kept += [await buffer.add(i, "ref", flat) for i in ids]
            buffer.check_valid()
        first = await buffer.take()
        await buffer.published(1, first.batch_id)
        await admit_all(buffer)
        resumed = ReplayBuffer(Rules(1, 1, resamples=2))
        resumed.restore(buffer.state())
        again = [await buffer.add(4, "ref", flat), await resumed.add(4, "late", flat)]
        assert (await buffer.admit("w")).version == 1
        return kept, ids_of(first), again, buffer.ledger()

    kept, first, again, ledger = run(main())
    assert kept == [False, False, True, True]
    assert first == [2]
    assert again == [False, False]
    assert (ledger.discarded, ledger.groups_dropped) == (
        {"zero_variance": 30},
        {"zero_variance": 3},
    )
    assert ledger.missing == 0


def test_equal_rewards_are_kept_unless_asked_for():
    async def main():
        buffer = ReplayBuffer(Rules(0, 1))
        admission = await buffer.admit("w")
        return await buffer.add(admission.group_id, "ref", dataclasses.replace(meta(), flat=True))

    assert run(main())


def test_a_batch_that_is_refused_never_was():
    async def main():
        buffer = ReplayBuffer(Rules(0, 2))
        await finish(buffer, *await admit_all(buffer))
        first = await buffer.take()
        with pytest.raises(ValueError, match=r"cannot refuse groups .0. of batch 0, stepped=F"):
            await buffer.refuse(first.batch_id, {0: "not_finite"}, stepped=False)
        await buffer.refuse(first.batch_id, {0: "not_finite", 1: "invalid"}, stepped=False)
        buffer.check_valid()
        await finish(buffer, *await admit_all(buffer))
        second = await buffer.take()
        await buffer.published(1, second.batch_id)
        return first, second, buffer.ledger()

    first, second, ledger = run(main())
    assert (first.batch_id, first.version) == (second.batch_id, second.version) == (0, 0)
    assert ids_of(second) == [2, 3]
    assert ledger.discarded == {"not_finite": 10, "invalid": 10}
    assert (ledger.consumed, ledger.groups_consumed, ledger.waiting) == (20, 2, 0)


def test_groups_that_are_refused_leave_the_others_in_their_batch():
    async def main():
        buffer = ReplayBuffer(Rules(1, 2))
        await finish(buffer, *await admit_all(buffer))
        first, second = await buffer.take(), await buffer.take()
        with pytest.raises(ValueError, match=r"cannot refuse groups .0. of batch 0"):
            await buffer.refuse(first.batch_id, {0: "not_finite"}, stepped=True)
        await buffer.refuse(second.batch_id, {3: "invalid"}, stepped=True)
        assert await admit_all(buffer) == []
        await buffer.published(1, first.batch_id)
        await buffer.published(2, second.batch_id)
        buffer.check_valid()
        return buffer.ledger(), len(await admit_all(buffer))

    ledger, free = run(main())
    assert (ledger.consumed, ledger.groups_consumed, free) == (30, 3, 4)
    assert (ledger.discarded, ledger.groups_dropped) == ({"invalid": 10}, {"invalid": 1})


def test_a_dead_workers_groups_are_lost_and_may_come_in_late():
    async def main():
        buffer = ReplayBuffer(Rules(1, 1))
        dead, alive = await buffer.admit("dead"), await buffer.admit("alive")
        assert await buffer.requeue("dead") == 1
        assert await admit_all(buffer) == [2]
        assert not await buffer.add(dead.group_id, "late", meta(7))
        assert not await buffer.add(dead.group_id, "late", meta(7))
        assert await buffer.add(alive.group_id, "ref", meta(5))
        assert not await buffer.add(alive.group_id, "ref", meta(5))
        buffer.check_valid()
        return buffer.ledger()

    ledger = run(main())
    assert (ledger.generated, ledger.waiting, ledger.duplicates) == (12, 5, 2)
    assert (ledger.discarded, ledger.groups_dropped) == ({"late": 7}, {"worker_lost": 1})


def test_a_slot_is_not_given_to_a_dead_worker_that_still_waits_for_one():
    async def main():
        buffer = ReplayBuffer(Rules(0, 1))
        await buffer.admit("dead")
        waiting = asyncio.create_task(buffer.admit("dead"))
        await asyncio.sleep(0)
        await buffer.requeue("dead")
        with pytest.raises(BufferClosedError, match="dead"):
            await waiting
        return await admit_all(buffer)

    assert run(main()) == [1]


def test_abandoned_groups_are_booked_under_their_reason():
    async def main():
        buffer = ReplayBuffer(Rules(0, 1))
        admission = await buffer.admit("w")
        assert await buffer.abandon(admission.group_id, "cancelled", tokens=4)
        assert not await buffer.abandon(admission.group_id, "cancelled", tokens=4)
        buffer.check_valid()
        return buffer.ledger(), await admit_all(buffer)

    ledger, freed = run(main())
    assert (ledger.generated, ledger.discarded, freed) == (4, {"cancelled": 4}, [1])


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="group 3 was never admitted"):
        run(ReplayBuffer(Rules(0, 1)).add(3, "ref", meta()))


def test_pause_stops_admission_only():
    async def main():
        buffer = ReplayBuffer(Rules(1, 1))
        first = await buffer.admit("w")
        await buffer.pause()
        assert await settle(buffer.admit("w")) is None
        await finish(buffer, first.group_id)
        assert ids_of(await settle(buffer.take())) == [0]
        waiting = asyncio.create_task(buffer.admit("w"))
        await buffer.resume()
        return (await waiting).group_id

    assert run(main()) == 1


def test_close_wakes_everybody_who_waits():
    async def main():
        buffer = ReplayBuffer(Rules(0, 1))
        first = await buffer.admit("w")
        waiting = [asyncio.create_task(buffer.admit("w")), asyncio.create_task(buffer.take())]
        await asyncio.sleep(0)
        await buffer.close()
        results = await asyncio.gather(*waiting, buffer.take(), return_exceptions=True)
        return results, await buffer.add(first.group_id, "ref", meta())

    results, booked = run(main())
    assert [type(result) for result in results] == [BufferClosedError] * 3
    assert booked


def test_stale_tokens_are_caught_where_they_are_used():
    async def main():
        buffer = ReplayBuffer(Rules(1, 1), version=5)
        admission = await buffer.admit("w")
        await buffer.add(admission.group_id, "ref", meta(version=3))
        await buffer.take()

    with pytest.raises(AssertionError, match="lag 2"):
        run(main())


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="max_lag=-1"):
        Rules(-1, 1)


def test_restore_continues_where_the_state_was_taken():
    """A batch that was out is taken again; groups in flight are given out again; ids go on."""

    async def main():
        buffer = ReplayBuffer(Rules(1, 2))
        await finish(buffer, *(await admit_all(buffer))[:3])
        batch = await buffer.take()
        resumed = ReplayBuffer(Rules(1, 2))
        resumed.restore(pickle.loads(pickle.dumps(buffer.state())))
        assert await settle(resumed.admit("w")) == Admission(3, 0)
        assert await resumed.take() == batch
        assert await admit_all(resumed) == []
        assert await resumed.add(3, "ref", meta())
        assert not await resumed.add(3, "again", meta())
        await resumed.published(1, batch.batch_id)
        assert await admit_all(resumed) == [4, 5]
        resumed.check_valid()
        return resumed.ledger()

    ledger = run(main())
    assert (ledger.generated, ledger.duplicates) == (40, 1)


def test_restore_under_a_smaller_bound_is_refused():
    async def main():
        buffer = ReplayBuffer(Rules(4, 1))
        await finish(buffer, *await admit_all(buffer))
        ReplayBuffer(Rules(2, 1)).restore(buffer.state())

    with pytest.raises(ValueError, match="2 groups more than the 3 slots"):
        run(main())


def corrupt(buffer, how):
    if how == "ledger":
        buffer._now.ledger.waiting += 1
    elif how == "late":
        buffer._now.slots.live[0].admitted_version = -9
        buffer._now.slots.admitted = Counter([-9, 0])
    elif how == "order":
        buffer._now.slots.live[0] = buffer._now.slots.live.pop(0)
    elif how == "count":
        buffer._now.ledger.groups_admitted += 1
    else:
        buffer._now.version += 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("ledger", "tokens are held"),
        ("late", "too late for max_lag"),
        ("order", "order of admission"),
        ("count", "groups admitted, but"),
        ("version", "are out, expected"),
    ],
)
def test_check_valid_names_what_is_wrong(how, message):
    async def main():
        buffer = ReplayBuffer(Rules(2, 1))
        await finish(buffer, *await admit_all(buffer))
        await buffer.take()
        buffer._now.slots.live[0] = buffer._now.slots.live.pop(1)
        buffer._now.slots.live = dict(
            sorted({0: buffer._now.slots.live[0], 2: buffer._now.slots.live[2]}.items())
        )
        buffer.check_valid()
        corrupt(buffer, how)
        buffer.check_valid()

    with pytest.raises(ValueError, match=message):
        run(main())


def test_a_straggler_may_be_given_up_at_its_deadline_and_comes_in_late():
    async def main():
        buffer = ReplayBuffer(Rules(1, 1, stragglers="drop"))
        assert await admit_all(buffer) == [0, 1]
        await finish(buffer, 1)
        first = await buffer.take()
        await buffer.published(1, first.batch_id)
        assert await admit_all(buffer) == [2]
        assert await settle(buffer.take()) is None
        await finish(buffer, 2)
        second = await buffer.take()
        assert not await buffer.add(0, "late", meta(7))
        buffer.check_valid()
        return ids_of(first), ids_of(second), buffer.ledger()

    first, second, ledger = run(main())
    assert (first, second) == ([1], [2])
    assert (ledger.discarded, ledger.groups_dropped) == ({"late": 7}, {"straggler": 1})


def test_the_largest_spread_goes_first_until_a_deadline_forbids_it():
    async def main():
        buffer = ReplayBuffer(Rules(2, 1, priority="spread"))
        for group_id, spread in zip(await admit_all(buffer), (0.1, 0.5, 0.3), strict=True):
            await buffer.add(group_id, "ref", meta(spread=spread))
        taken = []
        for version in range(3):
            batch = await buffer.take()
            taken += ids_of(batch)
            await buffer.published(version + 1, batch.batch_id)
            for group_id in await admit_all(buffer):
                await buffer.add(group_id, "ref", meta(spread=0.9, version=buffer.version))
        return taken

    # 3 has the largest spread of all, but 0 and 2 were admitted at 0 and must go by version 2.
    assert run(main()) == [1, 2, 0]


def test_groups_are_used_again_while_they_are_young_enough():
    async def main():
        buffer = ReplayBuffer(Rules(2, 1, uses=3))
        seen = []
        for version in range(4):
            ids = await admit_all(buffer)
            for group_id in ids:
                await buffer.add(group_id, "ref", meta(version=version, size=5))
            batch = await buffer.take()
            assert all(version - e.meta.oldest_version <= 2 for e in batch.groups)
            seen.append((ids_of(batch), [entry.group_id for entry in batch.replayed]))
            await buffer.published(version + 1, batch.batch_id)
            buffer.check_valid()
        return seen, buffer.ledger(), buffer.memory()

    seen, ledger, memory = run(main())
    # Groups 0, 1 and 2 were admitted at 0: version 2 is the last that may use them.
    assert seen == [([0], []), ([1], [0]), ([2], [1, 0]), ([3], [])]
    assert (ledger.consumed, ledger.replayed, ledger.missing) == (40, 30, 0)
    assert memory.resident == 5 * 2  # 4 and 5 wait; version 4 may use none again


def test_what_exceeds_the_memory_goes_to_the_store_and_is_freed_when_it_was_used():
    async def main():
        shelf = Shelf()
        buffer = ReplayBuffer(Rules(1, 2), store=shelf, memory_bytes=25)
        for group_id in await admit_all(buffer):
            await buffer.add(group_id, f"ref{group_id}", meta(size=10))
        assert shelf.held == {2: "ref2", 3: "ref3"}
        first, second = await buffer.take(), await buffer.take()
        assert [entry.ref for entry in first.entries] == ["ref0", "ref1"]
        assert [entry.ref for entry in second.entries] == [("shelf", 2), ("shelf", 3)]
        before = buffer.memory()
        await buffer.published(1, 0)
        await buffer.published(2, 1)
        return before, buffer.memory(), shelf.held

    before, after, held = run(main())
    assert (before.resident, before.spilled) == (20, 20)
    assert (after.resident, after.spilled, after.spilled_groups) == (0, 0, 2)
    assert held == {}


def test_a_full_disk_costs_no_group():
    async def main():
        shelf = Shelf()
        shelf.full = True
        buffer = ReplayBuffer(Rules(0, 2), store=shelf)
        for group_id in await admit_all(buffer):
            assert await buffer.add(group_id, f"ref{group_id}", meta(size=10))
        return [entry.ref for entry in (await buffer.take()).entries], buffer.memory()

    refs, memory = run(main())
    assert refs == ["ref0", "ref1"]
    assert (memory.resident, memory.spilled, memory.failures) == (20, 0, 2)


def test_a_duplicate_that_comes_in_while_the_first_is_being_spilled():
    async def main():
        shelf = Shelf()
        buffer = ReplayBuffer(Rules(0, 1), store=shelf)
        await buffer.admit("w")
        kept = await asyncio.gather(*(buffer.add(0, "ref", meta(size=10)) for _ in range(2)))
        buffer.check_valid()
        return sorted(kept), buffer.memory(), buffer.ledger().duplicates

    kept, memory, duplicates = run(main())
    assert kept == [False, True]
    assert (memory.resident, memory.spilled, duplicates) == (0, 10, 1)


# ---- the proof, by machine: every interleaving against a model that searches by brute force


def can_meet_deadlines(deadlines, version, size):
    """Simulate batches from `version` on, most urgent groups first."""
    left = sorted(deadlines)
    while left:
        batch, left = left[:size], left[size:]
        if batch[0] < version:
            return False
        if any(limit < version for limit in batch):
            return False
        version += 1
    return True


class Model(RuleBasedStateMachine):
    """The buffer next to a list of groups; whatever one does, the other must agree."""

    @initialize(
        max_lag=st.integers(0, 3),
        size=st.integers(1, 3),
        window=st.integers(1, 3),
        stragglers=st.sampled_from(["wait", "drop"]),
        priority=st.sampled_from(["age", "spread"]),
        uses=st.integers(1, 3),
        memory=st.integers(0, 60),
    )
    def start(self, max_lag, size, window, stragglers, priority, uses, memory):
        self.loop = asyncio.new_event_loop()
        self.max_lag, self.size, self.window = max_lag, size, window
        self.rules = Rules(max_lag, size, window, stragglers, priority, uses=uses)
        self.shelf, self.bound = Shelf(), memory
        self.buffer = ReplayBuffer(self.rules, store=self.shelf, memory_bytes=memory)
        self.used = {}  # id -> (admitted version, uses so far), in the order of their last use
        self.spreads = {}
        self.version = 0
        self.live = {}  # id -> (admitted version, finished?)
        self.deaths = Counter()
        self.orphans = []
        self.out = []

    def do(self, awaitable):
        return self.loop.run_until_complete(settle(awaitable))

    def teardown(self):
        if hasattr(self, "loop"):
            self.finish_everything()
            self.loop.close()

    @rule(worker=st.sampled_from("ab"))
    def admit(self, worker):
        worker += str(self.deaths[worker])
        admission = self.do(self.buffer.admit(worker))
        used = len(self.live) + len(self.out) * self.size
        orphans = [i for i in self.orphans if i in self.live and not self.live[i][1]]
        if orphans:
            assert admission == Admission(orphans[0], self.live[orphans[0]][0])
            self.orphans = orphans[1:]
            self.live[orphans[0]][2] = worker
            return
        assert (admission is None) == (used == (self.max_lag + 1) * self.size)
        if admission:
            assert admission.version == self.version
            assert admission.group_id > max(self.live, default=-1)
            self.live[admission.group_id] = [self.version, False, worker]

    @precondition(lambda self: any(not g[1] for g in self.live.values()))
    @rule(
        data=st.data(),
        fate=st.sampled_from(["finish", "finish", "finish", "bad", "abandon"]),
        size=st.integers(0, 30),
        spread=st.sampled_from([0.0, 0.25, 0.5]),
    )
    def end_one(self, data, fate, size, spread):
        running = [i for i, group in self.live.items() if not group[1]]
        group_id = data.draw(st.sampled_from(running))
        if fate == "abandon":
            assert self.do(self.buffer.abandon(group_id, "cancelled", 1))
            del self.live[group_id]
            return
        scored = 1 if fate == "bad" else 2
        oldest = self.live[group_id][0]
        made = meta(scored=scored, version=oldest, size=size, spread=spread)
        kept = self.do(self.buffer.add(group_id, group_id, made))
        assert kept == (fate == "finish")
        self.spreads[group_id] = spread
        if kept:
            self.live[group_id][1] = True
        else:
            del self.live[group_id]

    @rule(worker=st.sampled_from("ab"))
    def worker_dies(self, worker):
        self.deaths[worker] += 1
        worker += str(self.deaths[worker] - 1)
        lost = [i for i, group in self.live.items() if group[2] == worker and not group[1]]
        assert self.do(self.buffer.requeue(worker)) == len(lost)
        for group_id in lost:
            del self.live[group_id]

    @rule()
    def take(self):
        consuming = self.version + len(self.out)
        batch = self.do(self.buffer.take())
        allowed = self.allowed(consuming)
        if self.rules.stragglers == "drop":
            in_flight = [i for i in sorted(self.live) if not self.live[i][1]]
            while not allowed and self.finished_in_window() >= self.size:
                del self.live[in_flight.pop(0)]
                allowed = self.allowed(consuming, window=self.live_before)
        assert (batch is None) == (not allowed)
        if batch:
            ids = ids_of(batch)
            assert ids == min(allowed, key=self.preference)
            assert batch.version == consuming
            assert all(consuming - self.live[i][0] <= self.max_lag for i in ids)
            self.replay(batch, consuming)
            for group_id in ids:
                self.used[group_id] = [self.live.pop(group_id)[0], 0]
            self.out.append(batch)

    def preference(self, choice):
        """The smallest is the best."""
        if self.rules.priority == "age":
            return choice
        return sorted((-self.spreads[i], i) for i in choice)

    def replay(self, batch, consuming):
        """Groups of published batches, those whose last use is longest ago first."""
        out = {entry.group_id for other in self.out for entry in other.groups}
        ready = [
            i
            for i, (admitted, uses) in self.used.items()
            if i not in out and 0 < uses < self.rules.uses and admitted + self.max_lag >= consuming
        ]
        expected = ready[: (self.rules.uses - 1) * self.size]
        assert [entry.group_id for entry in batch.replayed] == expected

    def finished_in_window(self):
        self.live_before = sorted(self.live)[: self.window * self.size]
        return sum(self.live[i][1] for i in self.live_before)

    def allowed(self, consuming, window=None):
        """Every choice of finished groups after which the rest can still meet its deadlines."""
        window = window or sorted(self.live)[: self.window * self.size]
        finished = [i for i in window if i in self.live and self.live[i][1]]
        return [
            list(choice)
            for choice in itertools.combinations(finished, self.size)
            if can_meet_deadlines(
                [g[0] + self.max_lag for i, g in self.live.items() if i not in choice],
                consuming + 1,
                self.size,
            )
        ]

    @precondition(lambda self: self.out)
    @rule()
    def publish(self):
        batch = self.out.pop(0)
        self.version += 1
        for entry in batch.groups:
            admitted, uses = self.used.pop(entry.group_id)
            self.used[entry.group_id] = [admitted, uses + 1]
        self.do(self.buffer.published(self.version, batch.batch_id))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def refuse(self, data):
        """The newest batch loses some of its groups, or all, and then never was."""
        newest = self.out[-1]
        ids = ids_of(newest)
        if not ids:
            return
        gone = data.draw(st.sets(st.sampled_from(ids), min_size=1))
        stepped = data.draw(st.booleans()) if len(gone) == len(ids) else True
        reasons = dict.fromkeys(gone, "not_finite")
        self.do(self.buffer.refuse(newest.batch_id, reasons, stepped=stepped))
        self.out[-1] = newest.without(gone)
        if not stepped:
            del self.out[-1]

    @precondition(lambda self: not self.out)
    @rule()
    def restart(self):
        state = self.buffer.state()
        self.buffer = ReplayBuffer(self.rules, store=self.shelf, memory_bytes=self.bound)
        self.buffer.restore(state)
        self.used = {}
        spilled = {group["group_id"] for group in state["groups"] if group["spilled"]}
        self.shelf.held = {i: ref for i, ref in self.shelf.held.items() if i in spilled}
        self.orphans = [i for i in sorted(self.live) if not self.live[i][1]]
        self.live = {i: [version, done, ""] for i, (version, done, _) in self.live.items()}

    @invariant()
    def valid(self):
        if hasattr(self, "buffer"):
            self.buffer.check_valid()
            assert self.buffer.ledger().missing == 0
            assert self.buffer.version == self.version
            memory = self.buffer.memory()
            assert memory.resident <= self.bound
            groups = self.buffer.state()["groups"]
            kept = self.buffer._uses._pool.values()
            held = {g["group_id"] for g in groups if g["spilled"]}
            assert held | {entry.group_id for entry in kept if entry.spilled} == set(
                self.shelf.held
            ) - {entry.group_id for batch in self.out for entry in batch.replayed}
            assert len(kept) <= self.rules.uses * self.size * (self.max_lag + 1)

    def finish_everything(self):
        """However it got here: if all groups finish from now on, the learner never starves."""
        for _ in range(3):
            while self.do(self.buffer.admit("a")) is not None:
                pass
            for group_id in self.buffer.state()["in_flight"]:
                self.do(self.buffer.add(group_id, 0, meta(version=self.version)))
            batch = self.do(self.buffer.take()) if not self.out else self.out.pop(0)
            assert batch is not None, "deadlock"
            self.version += 1
            self.do(self.buffer.published(self.version, batch.batch_id))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("max_lag", [0, 1, 3])
def test_a_run_with_concurrent_workers_and_stragglers(max_lag):
    """Eight workers, long-tailed groups, failures, a learner: bound, ledger and progress."""

    async def worker(buffer, name, rng):
        while True:
            admission = await buffer.admit(name)
            for _ in range(rng.choice([1, 1, 1, 2, 40])):
                await asyncio.sleep(0)
            scored = rng.choice([1, 2, 2, 2, 2, 2])
            await buffer.add(
                admission.group_id, name, meta(rng.randint(1, 9), scored, version=admission.version)
            )

    async def learner(buffer, lags):
        for step in range(60):
            batch = await buffer.take()
            lags.update(batch.version - entry.meta.oldest_version for entry in batch.entries)
            await asyncio.sleep(0)
            await buffer.published(step + 1, batch.batch_id)
            buffer.check_valid()
            assert buffer.ledger().missing == 0

    async def main():
        buffer = ReplayBuffer(Rules(max_lag, 4))
        workers = [asyncio.create_task(worker(buffer, f"w{i}", random.Random(i))) for i in range(8)]
        lags = Counter()
        await learner(buffer, lags)
        await buffer.close()
        ended = await asyncio.gather(*workers, return_exceptions=True)
        assert {type(result) for result in ended} == {BufferClosedError}
        return lags, buffer.ledger()

    lags, ledger = run(main())
    assert max(lags) == max_lag
    assert set(ledger.discarded) == {"too_few_scored"}
    assert ledger.groups_consumed == 240
