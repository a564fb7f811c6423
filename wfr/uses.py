"""Uses: groups that published steps have trained on, and that further steps may train on again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Generic, TypeVar

from wfr import staleness
from wfr.groups import Entry
from wfr.room import Room
from wfr.selection import Rules

Ref = TypeVar("Ref")


class Uses(Generic[Ref]):
    """A pool of used groups; each is used at most `uses` times, and never beyond `max_lag`."""

    def __init__(self, rules: Rules, room: Room[Ref]) -> None:
        """Begin empty; groups that are let go of give their place in `room` back."""
        self._rules = rules
        self._room = room
        self._pool: dict[int, Entry[Ref]] = {}

    def take(self, version: int) -> tuple[Entry[Ref], ...]:
        """Take the oldest groups out, for the batch of `version`; those too old are let go."""
        for entry in [e for e in self._pool.values() if not self._fresh(e, version)]:
            self._room.free(self._pool.pop(entry.group_id))
        most = (self._rules.uses - 1) * self._rules.groups_per_batch
        oldest = list(itertools.islice(self._pool, most))
        return tuple(self._pool.pop(group_id) for group_id in oldest)

    def put_back(self, entries: Iterable[Entry[Ref]]) -> None:
        """The batch that they were taken for never was."""
        self._pool = {entry.group_id: entry for entry in entries} | self._pool

    def note(self, entry: Entry[Ref], version: int) -> None:
        """A step used the group: keep it for the batches from `version` on, or let it go."""
        used = dataclasses.replace(entry, uses=entry.uses + 1)
        if used.uses < self._rules.uses and self._fresh(used, version):
            self._pool[used.group_id] = used
        else:
            self._room.free(used)

    def clear(self) -> None:
        """Forget all; their room is somebody else's business."""
        self._pool = {}

    def _fresh(self, entry: Entry[Ref], version: int) -> bool:
        oldest = min(entry.admitted_version, entry.meta.oldest_version)
        return version <= staleness.deadline(oldest, self._rules.max_lag)
