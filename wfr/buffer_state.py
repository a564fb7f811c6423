"""What a replay buffer knows: slots, batches that are out, books; saved, restored and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from wfr import staleness
from wfr.groups import Batch, Entry, GroupMeta
from wfr.ledger import Ledger
from wfr.selection import Choice, Rules
from wfr.slots import Slots

Ref = TypeVar("Ref")


class BufferState(Generic[Ref]):
    """The state that `wfr.buffer.ReplayBuffer` changes; nothing here waits, logs or decides.

    Attributes:
        version: the published version.
        slots: groups that are not taken.
        out: batches that are taken and not published, by id, oldest first.
        again: of them, those that were out at a restart and are not yet handed out again.
        lost: groups that were given up and may come in all the same.
        resampled: groups of equal rewards discarded for the batch that is taken next.
        ledger: the books.
    """

    def __init__(self, rules: Rules, version: int, slots: Slots[Ref]) -> None:
        """Begin with no group."""
        self.version = version
        self.slots = slots
        self.out: dict[int, Batch[Ref]] = {}
        self.again: list[int] = []
        self.lost: set[int] = set()
        self.resampled = 0
        self.ledger = Ledger()
        self._rules = rules

    @property
    def consuming(self) -> int:
        """The version that the next batch will be consumed at."""
        return self.version + len(self.out)

    @property
    def free_slots(self) -> int:
        """Groups that could be admitted now."""
        return self._all_slots - len(self.slots.live) - len(self.out) * self._rules.groups_per_batch

    @property
    def _all_slots(self) -> int:
        return staleness.slots(self._rules.max_lag, self._rules.groups_per_batch)

    @property
    def admits(self) -> bool:
        """Whether there is something to give to a worker."""
        return self.slots.orphaned or self.free_slots > 0

    def choose(self) -> Choice[Ref] | None:
        """The batch to take now; none if it has to wait."""
        slots = self.slots
        if slots.finished < self._rules.groups_per_batch:
            return None
        return self._rules.choose(slots.live, slots.admitted, self.consuming)

    def why_not(self, meta: GroupMeta) -> str:
        """Why a finished group is discarded; empty if it is not."""
        rules = self._rules
        if meta.scored < min(rules.min_scored, meta.siblings):
            return "too_few_scored"
        if rules.incomplete != "take" and meta.scored < meta.siblings:
            return "incomplete"
        if meta.flat and self.resampled < rules.resamples:
            return "zero_variance"
        return ""

    def check_lag(self, batch: Batch[Ref]) -> None:
        """Assert the bound where data is used."""
        for entry in batch.groups:
            oldest = min(entry.meta.oldest_version, entry.admitted_version)
            stale = staleness.lag(batch.version, oldest)
            assert stale <= self._rules.max_lag, f"{entry} at version {batch.version}: lag {stale}"

    def held(self) -> list[Entry[Ref]]:
        """Groups that are finished or taken."""
        return self.slots.entries() + [e for batch in self.out.values() for e in batch.entries]

    def gauges(self) -> dict[str, int]:
        """How many groups are in which state."""
        return {
            "version": self.version,
            "free": self.free_slots,
            "in_flight": len(self.slots.live) - self.slots.finished,
            "finished": self.slots.finished,
            "taken": len(self.out) * self._rules.groups_per_batch,
        }

    def save(self) -> dict[str, Any]:
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
            for entry in sorted(self.held(), key=lambda e: e.group_id)
        ]
        return {
            "version": self.version,
            "next_id": self.slots.next_id,
            "groups": groups,
            "in_flight": self.slots.versions_in_flight(),
            "out": {i: [e.group_id for e in batch.entries] for i, batch in self.out.items()},
            "lost": sorted(self.lost),
            "resampled": self.resampled,
            "ledger": self.ledger.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `save()`; raises ValueError if the bound cannot hold."""
        self.version = state["version"]
        self.lost = set(state["lost"])
        self.resampled = state.get("resampled", 0)
        self.ledger = Ledger.from_state(state["ledger"])
        entries = {
            group["group_id"]: Entry(**{**group, "meta": GroupMeta(**group["meta"])})
            for group in state["groups"]
        }
        self.out = {
            batch: Batch(batch, batch, tuple(entries.pop(group) for group in groups))
            for batch, groups in state["out"].items()
        }
        self.again = sorted(self.out)
        self.slots.restore(state["next_id"], state["in_flight"], entries.values())
        self.check_valid()

    def check_valid(self) -> None:
        """Raise ValueError, naming the reason, where two parts of the state contradict."""
        self.slots.check_valid()
        self._check_groups()
        admitted = self.slots.admitted
        if self.free_slots < 0:
            raise ValueError(f"{-self.free_slots} groups more than the {self._all_slots} slots")
        if not self._rules.safe(admitted, self.consuming):
            raise ValueError(
                f"version {self.consuming} is next, too late for max_lag={self._rules.max_lag} "
                f"with groups admitted at {sorted(admitted.elements())}"
            )
        held = sum(entry.meta.policy_tokens for entry in self.held())
        if self.ledger.missing or self.ledger.waiting != held:
            raise ValueError(f"{held} tokens are held, which does not fit the {self.ledger}")

    def _check_groups(self) -> None:
        expected = list(range(self.version, self.consuming))
        if list(self.out) != expected:
            raise ValueError(f"batches {list(self.out)} are out, expected {expected}")
        known = len(self.slots.live) + sum(len(batch.entries) for batch in self.out.values())
        gone = self.ledger.groups_consumed + self.ledger.groups_dropped.total()
        if self.ledger.groups_admitted != known + gone:
            raise ValueError(
                f"{self.ledger.groups_admitted} groups admitted, but {known} are here, {gone} gone"
            )
