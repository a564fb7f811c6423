"""What the replay buffer knows of a group: where it is, and a few numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from typing import Generic, Self, TypeVar

Ref = TypeVar("Ref")


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
        size: bytes of the group's columns.
        spread: standard deviation of the scored rewards, which `priority="spread"` takes by.
        flat: two scored rewards or more, all equal.
    """

    siblings: int
    scored: int
    policy_tokens: int
    oldest_version: int
    discarded: Mapping[str, int] = dataclasses.field(default_factory=dict)
    size: int = 0
    spread: float = 0.0
    flat: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Entry(Generic[Ref]):
    """A finished group.

    Attributes:
        ref: where its columns are; if `spilled`, what the store made of the first reference.
        uses: published steps that have trained on it.
    """

    group_id: int
    admitted_version: int
    ref: Ref
    meta: GroupMeta
    spilled: bool = False
    uses: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Batch(Generic[Ref]):
    """What one optimizer step trains on; `version` is the version it consumes.

    Attributes:
        entries: groups that no step has used before; their tokens become consumed.
        replayed: groups that published steps have used already.
    """

    batch_id: int
    version: int
    entries: tuple[Entry[Ref], ...]
    replayed: tuple[Entry[Ref], ...] = ()

    @property
    def groups(self) -> tuple[Entry[Ref], ...]:
        """Everything to train on."""
        return self.entries + self.replayed

    def without(self, group_ids: Container[int]) -> Self:
        """The batch without these groups."""
        entries, replayed = (
            tuple(entry for entry in part if entry.group_id not in group_ids)
            for part in (self.entries, self.replayed)
        )
        return dataclasses.replace(self, entries=entries, replayed=replayed)

    def at(self, refs: Mapping[int, Ref]) -> Self:
        """The batch with its groups where `refs` says, by id of the group.

        Raises:
            KeyError: `refs` lacks one of them.
        """
        entries, replayed = (
            tuple(dataclasses.replace(entry, ref=refs[entry.group_id]) for entry in part)
            for part in (self.entries, self.replayed)
        )
        return dataclasses.replace(self, entries=entries, replayed=replayed)


@dataclasses.dataclass(slots=True)
class Live(Generic[Ref]):
    """A group that is not yet taken; `entry` is None while it is in flight."""

    admitted_version: int
    worker: str
    entry: Entry[Ref] | None = None
