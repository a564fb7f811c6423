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
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from wfr import staleness
from wfr.crash_points import reach
from wfr.groups import Admission, Batch, Entry, GroupMeta, Live
from wfr.history import EventLog
from wfr.ledger import Ledger
from wfr.memory import Memory, Store
from wfr.selection import Choice, Rules

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
        self._rules = rules
        self._store = store
        self._memory_bytes = memory_bytes
        self._version = version
        self._resampled = 0  # for the batch that is taken next
        self._next_id = shard
        self._stride = shards
        self._live: dict[int, Live[Ref]] = {}
        self._admitted: Counter[int] = Counter()  # live groups by the version of their admission
        self._finished = 0
        self._out: dict[int, Batch[Ref]] = {}
        self._used: dict[int, Entry[Ref]] = {}
        self._memory = Memory()
        self._log = log
        # Groups in flight at a restart that are not yet handed out again, as an ordered set.
        self._orphans: OrderedDict[int, None] = OrderedDict()
        self._again: list[int] = []  # batches that were out at a restart, likewise
        self._lost: set[int] = set()
        self._gone: set[str] = set()
        self._ledger = Ledger()
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
                lambda: worker in self._gone or (self._admits and not self._paused),
            )
            if worker in self._gone:
                raise BufferClosedError(f"worker {worker!r} was declared dead")
            admissions = [await self._admit(worker)]
            while len(admissions) < most and self._admits:
                admissions.append(await self._admit(worker))
            return admissions

    async def add(self, group_id: int, ref: Ref, meta: GroupMeta) -> bool:
        """Hand in a finished group; False where it is not kept (a duplicate, late, or discarded).

        A group that was given up for lost and comes in after all is discarded as `late`. A group
        that exceeds the memory budget is on the disk when this returns.
        """
        place, spilled = await self._fit(group_id, ref, meta)
        async with self._slot_free:
            live = self._in_flight(group_id)
            reason = self._why_not(meta) if live else ""
            admitted = live.admitted_version if live else -1
            entry = Entry(group_id, admitted, place, meta, spilled)
            if live is None or reason:
                self._forget(entry)
            if live is None:
                await self._refuse(group_id, meta)
                return False
            self._orphans.pop(group_id, None)  # its worker died, and its journal had it
            about = {"group": group_id, "meta": dataclasses.asdict(meta)}
            if reason:
                await self._book("discard", **about, reason=reason)
            else:
                await self._book("finish", **about)
            reach("put.booked")
            self._ledger.generate(meta.policy_tokens, meta.discarded)
            self._resampled += reason == "zero_variance"
            if reason:
                self._drop(group_id, reason)
                self._ledger.discard(reason, meta.policy_tokens)
            else:
                live.entry = entry
                self._finished += 1
            self._batch_ready.notify_all()
            return not reason

    async def abandon(self, group_id: int, reason: str, tokens: int = 0) -> bool:
        """Give up an unfinished group and the tokens it cost; False if it is not in flight."""
        async with self._slot_free:
            if self._in_flight(group_id) is None:
                self._ledger.duplicates += 1
                return False
            await self._book("abandon", group=group_id, reason=reason, tokens=tokens)
            self._drop(group_id, reason)
            self._ledger.generate(0, {reason: tokens})
            self._batch_ready.notify_all()
            return True

    async def requeue(self, worker: str) -> int:
        """A worker died: free its slots; returns the count of groups lost with it.

        A request of its that still waits for a slot is refused, because nobody would use the slot:
        the worker's successor needs another name.
        """
        async with self._slot_free:
            self._gone.add(worker)
            lost = [i for i, g in self._live.items() if g.worker == worker and g.entry is None]
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
        async with self._batch_ready:
            if self._again:
                batch = self._out[self._again.pop(0)]
                await self._book_take(batch)
                return batch
            await self._until(self._batch_ready, lambda: self._choose() is not None)
            chosen = self._choose()
            assert chosen is not None
            reach("take.begin")
            for group_id in chosen.stragglers:
                await self._lose(group_id, "straggler")
            version = self._consuming
            batch = Batch(version, version, tuple(chosen.entries), self._replay())
            self._check_lag(batch)
            await self._book_take(batch)
            self._out[batch.batch_id] = batch
            self._resampled = 0
            for entry in batch.entries:
                self._remove(entry.group_id)
            return batch

    async def published(self, version: int, batch_id: int) -> None:
        """The step that used the batch is in every sampler: its slots are free again.

        Raises:
            ValueError: steps must be published one by one, in the order of their batches.
        """
        async with self._slot_free:
            oldest = next(iter(self._out), None)
            if version != self._version + 1 or batch_id != oldest:
                raise ValueError(
                    f"published version {version} of batch {batch_id}; expected version "
                    f"{self._version + 1} of batch {oldest}"
                )
            reach("publish.begin")
            await self._book("publish", version=version)
            reach("publish.booked")
            batch = self._out.pop(batch_id)
            self._version = version
            tokens = sum(entry.meta.policy_tokens for entry in batch.entries)
            self._ledger.consume(tokens, groups=len(batch.entries))
            self._ledger.replayed += sum(entry.meta.policy_tokens for entry in batch.replayed)
            for entry in batch.groups:
                self._retire(entry)
            self._slot_free.notify_all()
            self._batch_ready.notify_all()

    async def refuse(self, batch_id: int, reasons: Mapping[int, str], *, stepped: bool) -> None:
        """Some groups of the newest batch could not be trained on, for these reasons: discard them.

        Unless there was a step on the others, the batch never was: its slots are free at once, and
        the next batch takes its number.

        Raises:
            ValueError: another batch was taken since, or without a step a group has no reason.
        """
        async with self._slot_free:
            newest = self._out.get(batch_id)
            whole = newest and {entry.group_id for entry in newest.entries} <= reasons.keys()
            if newest is None or batch_id != self._consuming - 1 or not (stepped or whole):
                raise ValueError(
                    f"cannot refuse groups {list(reasons)} of batch {batch_id}, stepped={stepped}: "
                    f"the batches {list(self._out)} are out"
                )
            booked = [[group_id, reason] for group_id, reason in reasons.items()]
            await self._book("refuse", batch=batch_id, reasons=booked, stepped=stepped)
            for entry in newest.groups:
                if entry.group_id in reasons:
                    self._forget(entry)
            for entry in newest.entries:
                if reason := reasons.get(entry.group_id):
                    self._ledger.discard(reason, entry.meta.policy_tokens)
                    self._ledger.groups_dropped[reason] += 1
            rest = newest.without(reasons)
            self._out[batch_id] = rest
            if not stepped:  # what was to be used again still can be
                del self._out[batch_id]
                self._used = {entry.group_id: entry for entry in rest.replayed} | self._used
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
        return self._version

    def ledger(self) -> Ledger:
        """A copy of the books as of now."""
        return Ledger.from_state(self._ledger.state())

    def memory(self) -> Memory:
        """A copy of the books on memory as of now."""
        return dataclasses.replace(self._memory)

    def gauges(self) -> dict[str, int]:
        """How many groups are in which state."""
        return {
            "version": self._version,
            "free": self._free_slots,
            "in_flight": len(self._live) - self._finished,
            "finished": self._finished,
            "taken": len(self._out) * self._rules.groups_per_batch,
        }

    # ---- state

    def state(self) -> dict[str, Any]:
        """Plain values; references appear as they are, under `groups`.

        Groups that wait to be replayed are consumed already, and forgotten.
        """
        groups = [
            {
                "group_id": entry.group_id,
                "admitted_version": entry.admitted_version,
                "ref": entry.ref,
                "meta": dataclasses.asdict(entry.meta),
                "spilled": entry.spilled,
            }
            for entry in sorted(self._held(), key=lambda e: e.group_id)
        ]
        in_flight = {i: g.admitted_version for i, g in self._live.items() if g.entry is None}
        return {
            "version": self._version,
            "next_id": self._next_id,
            "groups": groups,
            "in_flight": in_flight,
            "out": {i: [e.group_id for e in batch.entries] for i, batch in self._out.items()},
            "lost": sorted(self._lost),
            "resampled": self._resampled,
            "ledger": self._ledger.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` in a new buffer; raises ValueError if the bound cannot hold.

        Batches that were out are handed out again as they were, and groups that were in flight are
        admitted again.
        """
        self._version, self._next_id = state["version"], state["next_id"]
        self._lost = set(state["lost"])
        self._resampled = state.get("resampled", 0)
        self._ledger = Ledger.from_state(state["ledger"])
        self._used = {}
        entries = {
            group["group_id"]: Entry(**{**group, "meta": GroupMeta(**group["meta"])})
            for group in state["groups"]
        }
        for entry in entries.values():
            self._memory.add(entry.meta.size, spilled=entry.spilled)
        self._out = {
            batch: Batch(batch, batch, tuple(entries.pop(group) for group in groups))
            for batch, groups in state["out"].items()
        }
        live = {i: Live(entry.admitted_version, "", entry) for i, entry in entries.items()}
        live |= {i: Live(version, "") for i, version in state["in_flight"].items()}
        self._live = dict(sorted(live.items()))
        self._orphans = OrderedDict.fromkeys(sorted(state["in_flight"]))
        self._again = sorted(self._out)
        self._admitted = Counter(live.admitted_version for live in self._live.values())
        self._finished = len(entries)
        self.check_valid()

    def check_valid(self) -> None:
        """Raise ValueError, naming the reason, where two parts of the state contradict."""
        self._check_groups()
        if self._free_slots < 0:
            raise ValueError(f"{-self._free_slots} groups more than the {self._slots} slots")
        if not self._rules.safe(self._admitted, self._consuming):
            raise ValueError(
                f"version {self._consuming} is next, too late for max_lag={self._rules.max_lag} "
                f"with groups admitted at {[live.admitted_version for live in self._live.values()]}"
            )
        held = sum(entry.meta.policy_tokens for entry in self._held())
        if self._ledger.missing or self._ledger.waiting != held:
            raise ValueError(f"{held} tokens are held, which does not fit the {self._ledger}")

    def _check_groups(self) -> None:
        finished = sum(live.entry is not None for live in self._live.values())
        admitted = Counter(live.admitted_version for live in self._live.values())
        if finished != self._finished or admitted != self._admitted:
            raise ValueError(
                f"{self._finished} groups finished of {dict(self._admitted)}, but {finished} of "
                f"{dict(admitted)} are here"
            )
        if list(self._live) != sorted(self._live) or any(i >= self._next_id for i in self._live):
            raise ValueError(f"group ids are not in the order of admission: {list(self._live)}")
        expected = list(range(self._version, self._consuming))
        if list(self._out) != expected:
            raise ValueError(f"batches {list(self._out)} are out, expected {expected}")
        known = len(self._live) + sum(len(batch.entries) for batch in self._out.values())
        gone = self._ledger.groups_consumed + self._ledger.groups_dropped.total()
        if self._ledger.groups_admitted != known + gone:
            raise ValueError(
                f"{self._ledger.groups_admitted} groups admitted, but {known} are here, {gone} gone"
            )

    # ---- how

    @property
    def _slots(self) -> int:
        return staleness.slots(self._rules.max_lag, self._rules.groups_per_batch)

    @property
    def _free_slots(self) -> int:
        return self._slots - len(self._live) - len(self._out) * self._rules.groups_per_batch

    @property
    def _admits(self) -> bool:
        """Whether there is something to give to a worker."""
        return bool(self._orphans) or self._free_slots > 0

    @property
    def _consuming(self) -> int:
        """The version that the next batch will be consumed at."""
        return self._version + len(self._out)

    async def _admit(self, worker: str) -> Admission:
        if self._orphans:
            group_id, _ = self._orphans.popitem(last=False)
            self._live[group_id].worker = worker
            return Admission(group_id, self._live[group_id].admitted_version)
        group_id = self._next_id
        await self._book("admit", group=group_id, version=self._version)
        reach("admit.booked")
        self._next_id += self._stride
        self._live[group_id] = Live(self._version, worker)
        self._admitted[self._version] += 1
        self._ledger.groups_admitted += 1
        return Admission(group_id, self._version)

    def _held(self) -> list[Entry[Ref]]:
        finished = [live.entry for live in self._live.values() if live.entry is not None]
        return finished + [entry for batch in self._out.values() for entry in batch.entries]

    def _choose(self) -> Choice[Ref] | None:
        """The batch to take now; none if it has to wait."""
        if self._finished < self._rules.groups_per_batch:
            return None
        return self._rules.choose(self._live, self._admitted, self._consuming)

    def _replay(self) -> tuple[Entry[Ref], ...]:
        """Take groups that were used before out of their pool; those too old for it are let go."""
        for entry in [e for e in self._used.values() if not self._fresh(e, self._consuming)]:
            self._forget(self._used.pop(entry.group_id))
        oldest = list(
            itertools.islice(self._used, (self._rules.uses - 1) * self._rules.groups_per_batch)
        )
        return tuple(self._used.pop(group_id) for group_id in oldest)

    def _fresh(self, entry: Entry[Ref], version: int) -> bool:
        oldest = min(entry.admitted_version, entry.meta.oldest_version)
        return version <= staleness.deadline(oldest, self._rules.max_lag)

    def _retire(self, entry: Entry[Ref]) -> None:
        """A step that used the group is published: keep it for another, or let go of it."""
        used = dataclasses.replace(entry, uses=entry.uses + 1)
        if used.uses < self._rules.uses and self._fresh(used, self._consuming):
            self._used[used.group_id] = used
        else:
            self._forget(used)

    def _check_lag(self, batch: Batch[Ref]) -> None:
        for entry in batch.groups:
            oldest = min(entry.meta.oldest_version, entry.admitted_version)
            stale = staleness.lag(batch.version, oldest)
            assert stale <= self._rules.max_lag, f"{entry} at version {batch.version}: lag {stale}"

    def _why_not(self, meta: GroupMeta) -> str:
        """Why a finished group is discarded; empty if it is not."""
        if meta.scored < min(self._rules.min_scored, meta.siblings):
            return "too_few_scored"
        if self._rules.incomplete != "take" and meta.scored < meta.siblings:
            return "incomplete"
        if meta.flat and self._resampled < self._rules.resamples:
            return "zero_variance"
        return ""

    def _in_flight(self, group_id: int) -> Live[Ref] | None:
        live = self._live.get(group_id)
        return live if live is not None and live.entry is None else None

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
        if not 0 <= group_id < self._next_id:
            raise ValueError(f"group {group_id} was never admitted (next is {self._next_id})")
        if group_id in self._lost:
            await self._book("late", group=group_id, meta=dataclasses.asdict(meta))
            self._lost.remove(group_id)
            self._ledger.generate(meta.policy_tokens, meta.discarded)
            self._ledger.discard("late", meta.policy_tokens)
        else:
            self._ledger.duplicates += 1

    def _drop(self, group_id: int, reason: str) -> None:
        self._remove(group_id)
        self._ledger.groups_dropped[reason] += 1
        self._slot_free.notify_all()

    async def _lose(self, group_id: int, reason: str) -> None:
        """Drop a group that may come in all the same."""
        await self._book("lose", group=group_id, reason=reason)
        self._drop(group_id, reason)
        self._lost.add(group_id)

    def _remove(self, group_id: int) -> None:
        live = self._live.pop(group_id)
        self._orphans.pop(group_id, None)
        self._finished -= live.entry is not None
        self._admitted[live.admitted_version] -= 1
        if not self._admitted[live.admitted_version]:
            del self._admitted[live.admitted_version]

    async def _fit(self, group_id: int, ref: Ref, meta: GroupMeta) -> tuple[Ref, bool]:
        """Make room for a group; returns where it is, and whether that is in the store."""
        memory, store = self._memory, self._store
        fits = memory.resident + meta.size <= self._memory_bytes
        spilled = store is not None and not fits and self._in_flight(group_id) is not None
        memory.add(meta.size, spilled=spilled)
        if store is None or not spilled:
            return ref, False
        reach("spill.begin")
        try:
            place = await store.spill(group_id, ref)
            reach("spill.written")
            return place, True
        except OSError:  # above the bound is better than lost
            memory.remove(meta.size, spilled=True)
            memory.add(meta.size, spilled=False)
            memory.failures += 1
            return ref, False

    def _forget(self, entry: Entry[Ref]) -> None:
        """Give back the room of a group."""
        self._memory.remove(entry.meta.size, spilled=entry.spilled)
        if self._store is not None and entry.spilled:
            self._store.free(entry.ref)

    async def _until(self, changed: asyncio.Condition, ready: Callable[[], bool]) -> None:
        await changed.wait_for(lambda: self._closed or ready())
        if self._closed:
            raise BufferClosedError("the replay buffer is closed")
