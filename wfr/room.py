"""Room: which groups are in memory and which in the store; see `wfr.memory`."""

from __future__ import annotations

from typing import Generic, TypeVar

from wfr.crash_points import reach
from wfr.groups import Entry, GroupMeta
from wfr.memory import Memory, Store

Ref = TypeVar("Ref")


class Room(Generic[Ref]):
    """Keeps the groups outside the store within `memory_bytes`; without a store nothing is bounded.

    Attributes:
        memory: the books.
    """

    def __init__(self, store: Store[Ref] | None, memory_bytes: int) -> None:
        """Begin empty."""
        self.memory = Memory()
        self._store = store
        self._memory_bytes = memory_bytes

    async def fit(
        self, group_id: int, ref: Ref, meta: GroupMeta, *, kept: bool
    ) -> tuple[Ref, bool]:
        """Make room for a group; returns where it is, and whether that is in the store.

        One that is not going to be `kept` is not worth a place in the store.
        """
        memory, store = self.memory, self._store
        fits = memory.resident + meta.size <= self._memory_bytes
        spilled = store is not None and not fits and kept
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

    def free(self, entry: Entry[Ref]) -> None:
        """Give back what a group takes."""
        self.memory.remove(entry.meta.size, spilled=entry.spilled)
        if self._store is not None and entry.spilled:
            self._store.free(entry.ref)
