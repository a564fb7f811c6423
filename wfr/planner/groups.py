"""The buffer of a simulation: slots, and the very rules by which a run's buffer makes batches."""

from __future__ import annotations

import dataclasses
from collections import Counter

from wfr import staleness
from wfr.groups import Entry, GroupMeta, Live
from wfr.planner.scenario import TrainingPlan
from wfr.selection import Rules


@dataclasses.dataclass(slots=True)
class Played:
    """A group that is being played.

    Attributes:
        number: in the order of admission.
        version: published when it was admitted.
        left: siblings that have not finished.
        trained_tokens: that a step on it takes, prompts and observations included.
        versions: of each turn so far, the one under which it began.
    """

    number: int
    version: int
    left: int
    trained_tokens: float
    versions: list[int]


class Groups:
    """Slots and batches; see `wfr.staleness` for why no group is ever too old."""

    def __init__(self, plan: TrainingPlan) -> None:
        """All slots are free, and version 0 is published."""
        self._rules = Rules(plan.max_lag, plan.groups_per_batch, plan.window, plan.stragglers)
        self._free = staleness.slots(plan.max_lag, plan.groups_per_batch)
        self._live: dict[int, Live[Played]] = {}
        self._playing: dict[int, Played] = {}
        self._admitted: Counter[int] = Counter()
        self._finished = 0
        self._out = 0
        self.version = 0
        self.count = 0
        self.discarded = 0

    @property
    def free(self) -> int:
        """Slots for further groups."""
        return self._free

    @property
    def consuming(self) -> int:
        """The version that the next batch will be consumed at."""
        return self.version + self._out

    def admit(self, siblings: int, trained_tokens: float) -> Played:
        """Take a slot for one more group."""
        assert self._free > 0
        group = Played(self.count, self.version, siblings, trained_tokens, [])
        self._live[group.number] = Live(self.version, "")
        self._playing[group.number] = group
        self._admitted[self.version] += 1
        self._free -= 1
        self.count += 1
        return group

    def finish(self, group: Played) -> None:
        """All siblings are done."""
        if self._playing.pop(group.number, None) is not None:
            meta = GroupMeta(1, 1, 0, group.version)
            self._live[group.number].entry = Entry(group.number, group.version, group, meta)
            self._finished += 1

    def take(self) -> list[Played] | None:
        """A batch, if there is one to be had now."""
        if self._finished < self._rules.groups_per_batch:
            return None
        choice = self._rules.choose(self._live, self._admitted, self.consuming)
        if choice is None:
            return None
        for number in choice.stragglers:
            self._forget(number)
            del self._playing[number]  # it is played to its end and then counts no more
            self._free += 1
            self.discarded += 1
        batch = [entry.ref for entry in choice.entries]
        for group in batch:
            self._forget(group.number)
        self._finished -= len(batch)
        self._out += 1
        return batch

    def publish(self) -> None:
        """The oldest batch that is out has become a version: its slots are free."""
        self._out -= 1
        self.version += 1
        self._free += self._rules.groups_per_batch

    def _forget(self, number: int) -> None:
        live = self._live.pop(number)
        self._admitted[live.admitted_version] -= 1
        if not self._admitted[live.admitted_version]:
            del self._admitted[live.admitted_version]
