"""Slots: the groups that were admitted and are not yet taken, and who plays them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from wfr.groups import Admission, Entry, Live

Ref = TypeVar("Ref")


class Slots(Generic[Ref]):
    """Groups in the order of admission, which is that of their ids.

    Attributes:
        live: the groups, in flight or finished.
        admitted: how many of them were admitted at which version.
        finished: how many of them are finished.
        next_id: of the next group that is admitted.
    """

    def __init__(self, shard: int = 0, shards: int = 1) -> None:
        """Ids are those that leave `shard` when divided by `shards`."""
        self.live: dict[int, Live[Ref]] = {}
        self.admitted: Counter[int] = Counter()
        self.finished = 0
        self.next_id = shard
        self._stride = shards
        # Groups in flight at a restart that are not yet handed out again, as an ordered set.
        self._orphans: OrderedDict[int, None] = OrderedDict()

    @property
    def orphaned(self) -> bool:
        """Whether a group was in flight at a restart, and is not yet handed out again."""
        return bool(self._orphans)

    def adopt(self, worker: str) -> Admission:
        """Hand out such a group, the oldest one."""
        group_id, _ = self._orphans.popitem(last=False)
        self.live[group_id].worker = worker
        return Admission(group_id, self.live[group_id].admitted_version)

    def open(self, version: int, worker: str) -> Admission:
        """Admit the next group."""
        group_id = self.next_id
        self.next_id += self._stride
        self.live[group_id] = Live(version, worker)
        self.admitted[version] += 1
        return Admission(group_id, version)

    def in_flight(self, group_id: int) -> Live[Ref] | None:
        """The group, if it is admitted and not finished."""
        live = self.live.get(group_id)
        return live if live is not None and live.entry is None else None

    def of(self, worker: str) -> list[int]:
        """The groups that a worker plays."""
        return [i for i, g in self.live.items() if g.worker == worker and g.entry is None]

    def finish(self, entry: Entry[Ref]) -> None:
        """A group in flight is finished; also one whose worker died, after its journal had it."""
        self._orphans.pop(entry.group_id, None)
        self.live[entry.group_id].entry = entry
        self.finished += 1

    def remove(self, group_id: int) -> None:
        """A group is taken, or gone."""
        live = self.live.pop(group_id)
        self._orphans.pop(group_id, None)
        self.finished -= live.entry is not None
        self.admitted[live.admitted_version] -= 1
        if not self.admitted[live.admitted_version]:
            del self.admitted[live.admitted_version]

    def entries(self) -> list[Entry[Ref]]:
        """The finished groups."""
        return [live.entry for live in self.live.values() if live.entry is not None]

    def versions_in_flight(self) -> dict[int, int]:
        """The groups in flight, and the versions of their admission."""
        return {i: g.admitted_version for i, g in self.live.items() if g.entry is None}

    def restore(
        self, next_id: int, in_flight: Mapping[int, int], entries: Iterable[Entry[Ref]]
    ) -> None:
        """Begin with these groups; those in flight have to be handed out again."""
        self.next_id = next_id
        live = {e.group_id: Live(e.admitted_version, "", e) for e in entries}
        self.finished = len(live)
        live |= {i: Live(version, "") for i, version in in_flight.items()}
        self.live = dict(sorted(live.items()))
        self._orphans = OrderedDict.fromkeys(sorted(in_flight))
        self.admitted = Counter(live.admitted_version for live in self.live.values())

    def check_valid(self) -> None:
        """Raise ValueError, naming the reason, where two parts contradict."""
        admitted = Counter(live.admitted_version for live in self.live.values())
        if len(self.entries()) != self.finished or admitted != self.admitted:
            raise ValueError(
                f"{self.finished} groups finished of {dict(self.admitted)}, but "
                f"{len(self.entries())} of {dict(admitted)} are here"
            )
        if list(self.live) != sorted(self.live) or any(i >= self.next_id for i in self.live):
            raise ValueError(f"group ids are not in the order of admission: {list(self.live)}")
