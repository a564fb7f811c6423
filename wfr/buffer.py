"""The replay buffer: which groups exist, which may be trained on, and what became of every token.

    slot ──admit──► in flight ──add──► finished ──take──► taken ──published──► released
                        │                  │
                        └─ requeue, abandon└─ too few scored siblings: discarded, slot freed at once

It holds references and small metadata, never trajectories. Why no group is ever staler than
`max_lag` is proved in `wfr.staleness`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from wfr import staleness
from wfr.ledger import Ledger

Ref = TypeVar("Ref")


class BufferClosedError(RuntimeError):
    """The run is ending; whoever waited for the buffer stops."""


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """Leave to generate one group, and the version that was published when it was given."""

    group_id: int
    version: int


@dataclasses.dataclass(frozen=True, slots=True)
class GroupMeta:
    """What the buffer knows of a finished group.

    Attributes:
        siblings: trajectories that were asked for (G).
        scored: of them, those that the world did not fail.
        policy_tokens: tokens of the scored siblings.
        oldest_version: oldest weight version among these tokens.
        discarded: policy tokens generated for this group and thrown away, by reason.
    """

    siblings: int
    scored: int
    policy_tokens: int
    oldest_version: int
    discarded: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry(Generic[Ref]):
    """A finished group."""

    group_id: int
    admitted_version: int
    ref: Ref
    meta: GroupMeta


@dataclasses.dataclass(frozen=True, slots=True)
class Batch(Generic[Ref]):
    """What one optimizer step trains on; `version` is the version it consumes."""

    batch_id: int
    version: int
    entries: tuple[Entry[Ref], ...]


@dataclasses.dataclass(slots=True)
class _Live(Generic[Ref]):
    """A group that is not yet taken; `entry` is None while it is in flight."""

    admitted_version: int
    worker: str
    entry: Entry[Ref] | None = None


class ReplayBuffer(Generic[Ref]):
    """Hands out slots to workers and batches to the learner.

    With two groups per batch and `max_lag=1` there are four slots:

        buffer = ReplayBuffer(max_lag=1, groups_per_batch=2, window=4)
        admission = await buffer.admit("worker-0")       # waits for a free slot
        await buffer.add(admission.group_id, ref, meta)  # a second group likewise
        batch = await buffer.take()                      # waits for two groups
        await buffer.published(version=1, batch_id=batch.batch_id)  # frees their slots

    All methods must run in one event loop. Everything that waits raises BufferClosedError after
    `close()`.
    """

    def __init__(
        self,
        max_lag: int,
        groups_per_batch: int,
        window: int = 4,
        incomplete: Literal["take", "drop"] = "take",
        version: int = 0,
    ) -> None:
        """An empty buffer.

        Args:
            max_lag: most steps between sampling a token and training on it.
            groups_per_batch: groups in every batch, exactly.
            window: only the oldest `window × groups_per_batch` groups may be taken.
            incomplete: what becomes of a group that lost siblings to the world.
            version: the version that the samplers start with.
        """
        if max_lag < 0 or groups_per_batch < 1 or window < 1:
            raise ValueError(
                f"max_lag={max_lag}, groups_per_batch={groups_per_batch}, window={window}: need at "
                "least 0, 1 and 1"
            )
        self.max_lag = max_lag
        self.groups_per_batch = groups_per_batch
        self.window = window
        self.incomplete = incomplete
        self._version = version
        self._next_id = 0
        self._live: dict[int, _Live[Ref]] = {}
        self._out: dict[int, Batch[Ref]] = {}
        self._lost: set[int] = set()
        self._gone: set[str] = set()
        self._ledger = Ledger()
        self._paused = False
        self._closed = False
        self._changed = asyncio.Condition()

    # ---- workers

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot (and for the end of a pause) and take it; ids rise."""
        async with self._changed:
            await self._until(
                lambda: worker in self._gone or (self._free_slots > 0 and not self._paused)
            )
            if worker in self._gone:
                raise BufferClosedError(f"worker {worker!r} was declared dead")
            group_id = self._next_id
            self._next_id += 1
            self._live[group_id] = _Live(self._version, worker)
            self._ledger.groups_admitted += 1
            return Admission(group_id, self._version)

    async def add(self, group_id: int, ref: Ref, meta: GroupMeta) -> bool:
        """Hand in a finished group; False where it is not kept (a duplicate, late, or discarded).

        A group that was given up for lost and comes in after all is discarded as `late`.
        """
        async with self._changed:
            live = self._in_flight(group_id)
            if live is None:
                self._refuse(group_id, meta)
                return False
            self._ledger.generate(meta.policy_tokens, meta.discarded)
            reason = self._why_not(meta)
            if reason:
                self._drop(group_id, reason)
                self._ledger.discard(reason, meta.policy_tokens)
            else:
                live.entry = Entry(group_id, live.admitted_version, ref, meta)
            self._changed.notify_all()
            return not reason

    async def abandon(self, group_id: int, reason: str, tokens: int = 0) -> bool:
        """Give up an unfinished group and the tokens it cost; False if it is not in flight."""
        async with self._changed:
            if self._in_flight(group_id) is None:
                self._ledger.duplicates += 1
                return False
            self._drop(group_id, reason)
            self._ledger.generate(0, {reason: tokens})
            self._changed.notify_all()
            return True

    async def requeue(self, worker: str) -> int:
        """A worker died: free its slots; returns the count of groups lost with it.

        A request of its that still waits for a slot is refused, because nobody would use the slot:
        the worker's successor needs another name.
        """
        async with self._changed:
            self._gone.add(worker)
            lost = [i for i, g in self._live.items() if g.worker == worker and g.entry is None]
            for group_id in lost:
                self._drop(group_id, "worker_lost")
            self._lost.update(lost)
            self._changed.notify_all()
            return len(lost)

    # ---- learner

    async def take(self) -> Batch[Ref]:
        """Wait for a full batch that leaves every other group able to meet its deadline."""
        async with self._changed:
            await self._until(lambda: self._choose() is not None)
            chosen = self._choose()
            assert chosen is not None
            batch = Batch(self._consuming, self._consuming, tuple(chosen))
            self._check_lag(batch)
            self._out[batch.batch_id] = batch
            for entry in chosen:
                del self._live[entry.group_id]
            return batch

    async def published(self, version: int, batch_id: int) -> None:
        """The step that used the batch is in every sampler: its slots are free again.

        Raises:
            ValueError: steps must be published one by one, in the order of their batches.
        """
        async with self._changed:
            oldest = next(iter(self._out), None)
            if version != self._version + 1 or batch_id != oldest:
                raise ValueError(
                    f"published version {version} of batch {batch_id}; expected version "
                    f"{self._version + 1} of batch {oldest}"
                )
            batch = self._out.pop(batch_id)
            self._version = version
            tokens = sum(entry.meta.policy_tokens for entry in batch.entries)
            self._ledger.consume(tokens, groups=len(batch.entries))
            self._changed.notify_all()

    # ---- the run

    async def pause(self) -> None:
        """Admit nobody until `resume`: the world is failing."""
        self._paused = True

    async def resume(self) -> None:
        """End a pause."""
        async with self._changed:
            self._paused = False
            self._changed.notify_all()

    async def close(self) -> None:
        """End every wait with BufferClosedError; what comes in later is still booked."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def version(self) -> int:
        """The published version."""
        return self._version

    def ledger(self) -> Ledger:
        """A copy of the books as of now."""
        return Ledger.from_state(self._ledger.state())

    def gauges(self) -> dict[str, int]:
        """How many groups are in which state."""
        finished = sum(live.entry is not None for live in self._live.values())
        return {
            "version": self._version,
            "free": self._free_slots,
            "in_flight": len(self._live) - finished,
            "finished": finished,
            "taken": len(self._out) * self.groups_per_batch,
        }

    # ---- state

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint; references appear as they are, under `groups`.

        Batches that are out count as finished, since their step is not published. Groups in flight
        are lost in a restart, so of them only the ids are kept.
        """
        groups = [
            {
                "group_id": entry.group_id,
                "admitted_version": entry.admitted_version,
                "ref": entry.ref,
                "meta": dataclasses.asdict(entry.meta),
            }
            for entry in sorted(self._held(), key=lambda e: e.group_id)
        ]
        return {
            "version": self._version,
            "next_id": self._next_id,
            "groups": groups,
            "in_flight": [i for i, live in self._live.items() if live.entry is None],
            "lost": sorted(self._lost),
            "ledger": self._ledger.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()` in a new buffer; raises ValueError if the bound cannot hold."""
        self._version, self._next_id = state["version"], state["next_id"]
        self._lost = {*state["lost"], *state["in_flight"]}
        self._ledger = Ledger.from_state(state["ledger"])
        if state["in_flight"]:
            self._ledger.groups_dropped["restart"] += len(state["in_flight"])
        self._out = {}
        self._live = {}
        for group in state["groups"]:
            entry = Entry(**{**group, "meta": GroupMeta(**group["meta"])})
            self._live[entry.group_id] = _Live(entry.admitted_version, "", entry)
        self.check_valid()

    def check_valid(self) -> None:
        """Raise ValueError, naming the reason, where two parts of the state contradict."""
        self._check_groups()
        if self._free_slots < 0:
            raise ValueError(f"{-self._free_slots} groups more than the {self._slots} slots")
        if not staleness.is_safe(self._deadlines(), self._consuming, self.groups_per_batch):
            raise ValueError(
                f"version {self._consuming} is next, too late for max_lag={self.max_lag} with "
                f"groups admitted at {[live.admitted_version for live in self._live.values()]}"
            )
        held = sum(entry.meta.policy_tokens for entry in self._held())
        if self._ledger.missing or self._ledger.waiting != held:
            raise ValueError(f"{held} tokens are held, which does not fit the {self._ledger}")

    def _check_groups(self) -> None:
        if list(self._live) != sorted(self._live) or any(i >= self._next_id for i in self._live):
            raise ValueError(f"group ids are not in the order of admission: {list(self._live)}")
        expected = list(range(self._version, self._consuming))
        if list(self._out) != expected:
            raise ValueError(f"batches {list(self._out)} are out, expected {expected}")
        known = len(self._live) + len(self._out) * self.groups_per_batch
        gone = self._ledger.groups_consumed + self._ledger.groups_dropped.total()
        if self._ledger.groups_admitted != known + gone:
            raise ValueError(
                f"{self._ledger.groups_admitted} groups admitted, but {known} are here, {gone} gone"
            )

    # ---- how

    @property
    def _slots(self) -> int:
        return staleness.slots(self.max_lag, self.groups_per_batch)

    @property
    def _free_slots(self) -> int:
        return self._slots - len(self._live) - len(self._out) * self.groups_per_batch

    @property
    def _consuming(self) -> int:
        """The version that the next batch will be consumed at."""
        return self._version + len(self._out)

    def _held(self) -> list[Entry[Ref]]:
        finished = [live.entry for live in self._live.values() if live.entry is not None]
        return finished + [entry for batch in self._out.values() for entry in batch.entries]

    def _deadlines(self, without: frozenset[int] = frozenset()) -> list[int]:
        return [
            staleness.deadline(live.admitted_version, self.max_lag)
            for group_id, live in self._live.items()
            if group_id not in without
        ]

    def _choose(self) -> list[Entry[Ref]] | None:
        """The oldest finished groups of the window, if the others can afford to wait."""
        size = self.groups_per_batch
        window = list(self._live.values())[: self.window * size]
        chosen = [live.entry for live in window if live.entry is not None][:size]
        if len(chosen) < size:
            return None
        rest = self._deadlines(without=frozenset(entry.group_id for entry in chosen))
        return chosen if staleness.is_safe(rest, self._consuming + 1, size) else None

    def _check_lag(self, batch: Batch[Ref]) -> None:
        for entry in batch.entries:
            oldest = min(entry.meta.oldest_version, entry.admitted_version)
            stale = staleness.lag(batch.version, oldest)
            assert stale <= self.max_lag, f"{entry} at version {batch.version}: lag {stale}"

    def _why_not(self, meta: GroupMeta) -> str:
        """Why a finished group is discarded; empty if it is not."""
        if meta.scored < min(2, meta.siblings):
            return "too_few_scored"
        if self.incomplete == "drop" and meta.scored < meta.siblings:
            return "incomplete"
        return ""

    def _in_flight(self, group_id: int) -> _Live[Ref] | None:
        live = self._live.get(group_id)
        return live if live is not None and live.entry is None else None

    def _refuse(self, group_id: int, meta: GroupMeta) -> None:
        """Book a group that is not in flight."""
        if not 0 <= group_id < self._next_id:
            raise ValueError(f"group {group_id} was never admitted (next is {self._next_id})")
        if group_id in self._lost:
            self._lost.remove(group_id)
            self._ledger.generate(meta.policy_tokens, meta.discarded)
            self._ledger.discard("late", meta.policy_tokens)
        else:
            self._ledger.duplicates += 1

    def _drop(self, group_id: int, reason: str) -> None:
        del self._live[group_id]
        self._ledger.groups_dropped[reason] += 1

    async def _until(self, ready: Callable[[], bool]) -> None:
        await self._changed.wait_for(lambda: self._closed or ready())
        if self._closed:
            raise BufferClosedError("the replay buffer is closed")
