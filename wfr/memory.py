"""Memory: what the groups of a replay buffer take, and where they go that do not fit."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypeVar

Ref = TypeVar("Ref")


@dataclasses.dataclass(slots=True)
class Memory:
    """Where the groups are that are finished, taken, or kept for another use.

    Attributes:
        resident: bytes outside the store.
        spilled: bytes in the store.
        spilled_groups: groups that ever went to the store.
        failures: groups that the store could not take, so that they stayed outside.
    """

    resident: int = 0
    spilled: int = 0
    spilled_groups: int = 0
    failures: int = 0

    def add(self, size: int, *, spilled: bool) -> None:
        """A group came in."""
        if spilled:
            self.spilled += size
            self.spilled_groups += 1
        else:
            self.resident += size

    def remove(self, size: int, *, spilled: bool) -> None:
        """A group is gone."""
        if spilled:
            self.spilled -= size
        else:
            self.resident -= size


class Store(Protocol[Ref]):
    """Where groups wait that do not fit into memory; see `wfr.spill.SpillDirectory`."""

    async def spill(self, group_id: int, ref: Ref) -> Ref:
        """Move a group out of memory; returns what it is found by from now on."""
        ...

    def free(self, ref: Ref) -> None:
        """Forget a group that was spilled."""
        ...
