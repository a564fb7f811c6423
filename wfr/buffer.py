"""The replay buffer: which groups exist, which may be trained on, and what became of every token.

    slot ──admit──► in flight ──add──► finished ──take──► taken ──published──► released
                        │                  │                               └─► replayed, at most
                        └─ requeue, abandon└─ too few scored siblings:         uses − 1 times
                                              discarded, slot freed at once; so
                                              are equal rewards, if asked for

It holds references and small metadata, never trajectories. Why no group is ever staler than
`max_lag` is proved in `wfr.staleness`. Over the memory budget, groups wait in a `Store`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from wfr.buffer_state import BufferState
from wfr.crash_points import reach
from wfr.groups import Admission, Batch, Entry, GroupMeta
from wfr.history import EventLog
from wfr.ledger import Ledger
from wfr.memory import Memory, Store
from wfr.room import Room
from wfr.selection import Rules
from wfr.slots import Slots
from wfr.uses import Uses

Ref = TypeVar("Ref")


class BufferClosedError(RuntimeError):
    """The run is ending; whoever waited for the buffer stops."""


class ReplayBuffer(Generic[Ref]):
    """Hands out slots to workers and batches to the learner.

    With two groups per batch and `max_lag=1` there are four slots:

        buffer = ReplayBuffer(Rules(max_lag=1, groups_per_batch=2))
        admission = await buffer.admit("worker-0")       # waits for a free slot
        await buffer.add(admission.group_id, ref, meta)  # a second group likewise
        batch = await buffer.take()                      # waits for two groups
        await buffer.published(version=1, batch_id=batch.batch_id)  # frees their slots

    All methods must run in one event loop. Everything that waits raises BufferClosedError after
    `close()`.
    """

    def __init__(
        self,
        rules: Rules,
        version: int = 0,
        *,
        store: Store[Ref] | None = None,
        memory_bytes: int = 0,
        shard: int = 0,
        shards: int = 1,
        log: EventLog | None = None,
    ) -> None:
        """An empty buffer.

        Args:
            rules: bound, sizes and policies.
            version: the version that the samplers start with.
            store: where groups go that exceed `memory_bytes`; without one nothing is bounded.
            memory_bytes: most bytes of groups outside the store.
            shard: which one this is of several; its ids are those of this remainder.
            shards: how many there are.
            log: gets every change before it is made; without one nothing outlives the process.
        """
        self._room = Room(store, memory_bytes)
        self._uses = Uses(rules, self._room)
        self._now = BufferState(rules, version, Slots[Ref](shard, shards))
        self._log = log
        self._gone: set[str] = set()
        self._paused = False
        self._closed = False
        lock = asyncio.Lock()
        self._slot_free = asyncio.Condition(lock)
        self._batch_ready = asyncio.Condition(lock)

    # ---- workers

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot (and for the end of a pause) and take it; ids rise.

        After a restart, groups that were in flight come first, at the version of their admission.
        """
        (admission,) = await self.admit_some(worker, 1)
        return admission

    async def admit_some(self, worker: str, most: int) -> list[Admission]:
        """Wait as `admit` does, and take as many slots as are free: 1 to `most`."""
        async with self._slot_free:
            await self._until(
                self._slot_free,
                lambda: worker in self._gone or (self._now.admits and not self._paused),
            )
            if worker in self._gone:
                raise BufferClosedError(f"worker {worker!r} was declared dead")
            admissions = [await self._admit(worker)]
            while len(admissions) < most and self._now.admits:
                admissions.append(await self._admit(worker))
            return admissions

    async def add(self, group_id: int, ref: Ref, meta: GroupMeta) -> bool:
        """Hand in a finished group; False where it is not kept (a duplicate, late, or discarded).

        A group that was given up for lost and comes in after all is discarded as `late`. A group
        that exceeds the memory budget is on the disk when this returns.
        """
        now = self._now
        known = now.slots.in_flight(group_id) is not None
        place, spilled = await self._room.fit(group_id, ref, meta, kept=known)
        async with self._slot_free:
            live = now.slots.in_flight(group_id)
            reason = now.why_not(meta) if live else ""
            admitted = live.admitted_version if live else -1
            entry = Entry(group_id, admitted, place, meta, spilled)
            if live is None or reason:
                self._room.free(entry)
            if live is None:
                await self._refuse(group_id, meta)
                return False
            about = {"group": group_id, "meta": dataclasses.asdict(meta)}
            if reason:
                await self._book("discard", **about, reason=reason)
            else:
                await self._book("finish", **about)
            reach("put.booked")
            now.ledger.generate(meta.policy_tokens, meta.discarded)
            now.resampled += reason == "zero_variance"
            if reason:
                self._drop(group_id, reason)
                now.ledger.discard(reason, meta.policy_tokens)
            else:
                now.slots.finish(entry)
            self._batch_ready.notify_all()
            return not reason

    async def abandon(self, group_id: int, reason: str, tokens: int = 0) -> bool:
        """Give up an unfinished group and the tokens it cost; False if it is not in flight."""
        async with self._slot_free:
            if self._now.slots.in_flight(group_id) is None:
                self._now.ledger.duplicates += 1
                return False
            await self._book("abandon", group=group_id, reason=reason, tokens=tokens)
            self._drop(group_id, reason)
            self._now.ledger.generate(0, {reason: tokens})
            self._batch_ready.notify_all()
            return True

    async def requeue(self, worker: str) -> int:
        """A worker died: free its slots; returns the count of groups lost with it.

        A request of its that still waits for a slot is refused, because nobody would use the slot:
        the worker's successor needs another name.
        """
        async with self._slot_free:
            self._gone.add(worker)
            lost = self._now.slots.of(worker)
            for group_id in lost:
                await self._lose(group_id, "worker_lost")
            self._slot_free.notify_all()
            self._batch_ready.notify_all()
            return len(lost)

    # ---- learner

    async def take(self) -> Batch[Ref]:
        """Wait for a full batch that leaves every other group able to meet its deadline.

        After a restart, batches whose steps were not published come first, as they were.
        """
        now = self._now
        async with self._batch_ready:
            if now.again:
                batch = now.out[now.again.pop(0)]
                await self._book_take(batch)
                return batch
            await self._until(self._batch_ready, lambda: now.choose() is not None)
            chosen = now.choose()
            assert chosen is not None
            reach("take.begin")
            for group_id in chosen.stragglers:
                await self._lose(group_id, "straggler")
            version = now.consuming
            batch = Batch(version, version, tuple(chosen.entries), self._uses.take(version))
            now.check_lag(batch)
            await self._book_take(batch)
            now.out[batch.batch_id] = batch
            now.resampled = 0
            for entry in batch.entries:
                now.slots.remove(entry.group_id)
            return batch

    async def published(self, version: int, batch_id: int) -> None:
        """The step that used the batch is in every sampler: its slots are free again.

        Raises:
            ValueError: steps must be published one by one, in the order of their batches.
        """
        now = self._now
        async with self._slot_free:
            oldest = next(iter(now.out), None)
            if version != now.version + 1 or batch_id != oldest:
                raise ValueError(
                    f"published version {version} of batch {batch_id}; expected version "
                    f"{now.version + 1} of batch {oldest}"
                )
            reach("publish.begin")
            await self._book("publish", version=version)
            reach("publish.booked")
            batch = now.out.pop(batch_id)
            now.version = version
            tokens = sum(entry.meta.policy_tokens for entry in batch.entries)
            now.ledger.consume(tokens, groups=len(batch.entries))
            now.ledger.replayed += sum(entry.meta.policy_tokens for entry in batch.replayed)
            for entry in batch.groups:
                self._uses.note(entry, now.consuming)
            self._slot_free.notify_all()
            self._batch_ready.notify_all()

    async def refuse(self, batch_id: int, reasons: Mapping[int, str], *, stepped: bool) -> None:
        """Some groups of the newest batch could not be trained on, for these reasons: discard them.

        Unless there was a step on the others, the batch never was: its slots are free at once, and
        the next batch takes its number.

        Raises:
            ValueError: another batch was taken since, or without a step a group has no reason.
        """
        now = self._now
        async with self._slot_free:
            newest = now.out.get(batch_id)
            whole = newest and {entry.group_id for entry in newest.entries} <= reasons.keys()
            if newest is None or batch_id != now.consuming - 1 or not (stepped or whole):
                raise ValueError(
                    f"cannot refuse groups {list(reasons)} of batch {batch_id}, stepped={stepped}: "
                    f"the batches {list(now.out)} are out"
                )
            booked = [[group_id, reason] for group_id, reason in reasons.items()]
            await self._book("refuse", batch=batch_id, reasons=booked, stepped=stepped)
            for entry in newest.groups:
                if entry.group_id in reasons:
                    self._room.free(entry)
            for entry in newest.entries:
                if reason := reasons.get(entry.group_id):
                    now.ledger.discard(reason, entry.meta.policy_tokens)
                    now.ledger.groups_dropped[reason] += 1
            rest = newest.without(reasons)
            now.out[batch_id] = rest
            if not stepped:  # what was to be used again still can be
                del now.out[batch_id]
                self._uses.put_back(rest.replayed)
            self._slot_free.notify_all()
            self._batch_ready.notify_all()

    # ---- the run

    async def pause(self) -> None:
        """Admit nobody until `resume`: the world is failing."""
        self._paused = True

    async def resume(self) -> None:
        """End a pause."""
        async with self._slot_free:
            self._paused = False
            self._slot_free.notify_all()

    async def close(self) -> None:
        """End every wait with BufferClosedError; what comes in later is still booked."""
        async with self._slot_free:
            self._closed = True
            self._slot_free.notify_all()
            self._batch_ready.notify_all()

    def force(self) -> None:
        """Force all that is booked to the disk."""
        if self._log is not None:
            self._log.force()

    def disk_full(self) -> bool:
        """Whether the ledger waits for room; everybody waits with it."""
        return self._log is not None and self._log.full

    @property
    def version(self) -> int:
        """The published version."""
        return self._now.version

    def ledger(self) -> Ledger:
        """A copy of the books as of now."""
        return Ledger.from_state(self._now.ledger.state())

    def memory(self) -> Memory:
        """A copy of the books on memory as of now."""
        return dataclasses.replace(self._room.memory)

    def gauges(self) -> dict[str, int]:
        """How many groups are in which state."""
        return self._now.gauges()

    # ---- state

    def state(self) -> dict[str, Any]:
        """Plain values; references appear as they are, under `groups`.

        Groups that wait to be replayed are consumed already, and forgotten.
        """
        return self._now.save()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` in a new buffer; raises ValueError if the bound cannot hold.

        Batches that were out are handed out again as they were, and groups that were in flight are
        admitted again.
        """
        self._uses.clear()
        self._now.restore(state)
        for entry in self._now.held():
            self._room.memory.add(entry.meta.size, spilled=entry.spilled)

    def check_valid(self) -> None:
        """Raise ValueError, naming the reason, where two parts of the state contradict."""
        self._now.check_valid()

    # ---- how

    async def _admit(self, worker: str) -> Admission:
        now = self._now
        if now.slots.orphaned:
            return now.slots.adopt(worker)
        await self._book("admit", group=now.slots.next_id, version=now.version)
        reach("admit.booked")
        now.ledger.groups_admitted += 1
        return now.slots.open(now.version, worker)

    async def _book(self, event: str, **about: Any) -> None:
        """Write down what is about to be done."""
        if self._log is not None:
            await self._log.append({"event": event, **about})

    async def _book_take(self, batch: Batch[Ref]) -> None:
        await self._book(
            "take",
            batch=batch.batch_id,
            groups=[entry.group_id for entry in batch.entries],
            replayed=[entry.group_id for entry in batch.replayed],
        )
        reach("take.booked")

    async def _refuse(self, group_id: int, meta: GroupMeta) -> None:
        """Book a group that is not in flight."""
        now = self._now
        if not 0 <= group_id < now.slots.next_id:
            raise ValueError(f"group {group_id} was never admitted (next is {now.slots.next_id})")
        if group_id in now.lost:
            await self._book("late", group=group_id, meta=dataclasses.asdict(meta))
            now.lost.remove(group_id)
            now.ledger.generate(meta.policy_tokens, meta.discarded)
            now.ledger.discard("late", meta.policy_tokens)
        else:
            now.ledger.duplicates += 1

    def _drop(self, group_id: int, reason: str) -> None:
        self._now.slots.remove(group_id)
        self._now.ledger.groups_dropped[reason] += 1
        self._slot_free.notify_all()

    async def _lose(self, group_id: int, reason: str) -> None:
        """Drop a group that may come in all the same."""
        await self._book("lose", group=group_id, reason=reason)
        self._drop(group_id, reason)
        self._now.lost.add(group_id)

    async def _until(self, changed: asyncio.Condition, ready: Callable[[], bool]) -> None:
        await changed.wait_for(lambda: self._closed or ready())
        if self._closed:
            raise BufferClosedError("the replay buffer is closed")
