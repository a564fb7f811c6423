"""Selection: which finished groups make the next batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

from wfr import staleness
from wfr.groups import Entry, Live

Ref = TypeVar("Ref")


@dataclasses.dataclass(frozen=True, slots=True)
class Choice(Generic[Ref]):
    """A batch, oldest group first, and the groups in flight that have to be given up for it."""

    entries: Sequence[Entry[Ref]]
    stragglers: Sequence[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """How batches are chosen; whatever it says, what stays behind can still meet its deadlines.

    Attributes:
        max_lag: most steps between sampling a token and training on it.
        groups_per_batch: groups in every batch that no step has used before, exactly.
        window: only the oldest `window × groups_per_batch` groups may be taken.
        stragglers: `wait` for a group that must be in the next batch, or `drop` it.
        priority: of those that may be taken, the oldest first, or those whose rewards spread most.
        incomplete: what becomes of a group that lost siblings to the world: `take` the rest, or
            `drop` it. (With `wait` the workers play such episodes again, and what is incomplete
            all the same is dropped.)
        min_scored: fewest scored siblings of a group that is taken (one in groups of one).
        uses: most steps that train on one group; the lag bound holds for each of them.
        resamples: most groups of equal rewards that are discarded for one batch, so that others are
            sampled in their place; beyond it they are kept.
    """

    max_lag: int
    groups_per_batch: int
    window: int = 4
    stragglers: Literal["wait", "drop"] = "wait"
    priority: Literal["age", "spread"] = "age"
    incomplete: Literal["wait", "take", "drop"] = "take"
    min_scored: int = 2
    uses: int = 1
    resamples: int = 0

    def __post_init__(self) -> None:
        """Refuse what no buffer can do; raises ValueError."""
        if self.max_lag < 0 or min(self.groups_per_batch, self.window, self.uses) < 1:
            raise ValueError(
                f"max_lag={self.max_lag}, groups_per_batch={self.groups_per_batch}, window="
                f"{self.window}, uses={self.uses}: need at least 0, 1, 1 and 1"
            )

    def choose(
        self, live: Mapping[int, Live[Ref]], admitted: Mapping[int, int], version: int
    ) -> Choice[Ref] | None:
        """Choose the batch that is consumed at `version`; none where it has to wait.

        Args:
            live: the groups that are not taken, in the order of admission.
            admitted: how many of them were admitted at which version.
            version: the consuming version.
        """
        size = self.groups_per_batch
        window = itertools.islice(live.items(), self.window * size)
        finished = [group.entry for _, group in window if group.entry is not None]
        if len(finished) < size:
            return None
        rest = Counter(admitted)
        stragglers: list[int] = []
        if self.stragglers == "drop":
            unfinished = (item for item in live.items() if item[1].entry is None)
            while not self.safe(rest, version + 1, without=finished[:size]):
                group_id, group = next(unfinished)
                stragglers.append(group_id)
                rest[group.admitted_version] -= 1
        elif not self.safe(rest, version + 1, without=finished[:size]):
            return None
        if self.priority == "age":
            return Choice(finished[:size], stragglers)
        return Choice(self._by_spread(finished, rest, version + 1), stragglers)

    def safe(
        self, admitted: Mapping[int, int], version: int, without: Iterable[Entry[Ref]] = ()
    ) -> bool:
        """Whether all groups but some can be consumed in time, from `version` on."""
        counts = Counter(admitted)
        for entry in without:
            counts[entry.admitted_version] -= 1
        deadlines = {staleness.deadline(v, self.max_lag): count for v, count in counts.items()}
        return staleness.is_safe(deadlines, version, self.groups_per_batch)

    def _by_spread(
        self, finished: Sequence[Entry[Ref]], admitted: Mapping[int, int], version: int
    ) -> list[Entry[Ref]]:
        """The largest spreads, as long as the oldest groups can fill up the batch."""
        size = self.groups_per_batch
        order = sorted(finished, key=lambda entry: (-entry.meta.spread, entry.group_id))
        chosen: list[Entry[Ref]] = order[:size]
        if not self.safe(admitted, version, without=chosen):
            chosen = []
            for entry in order:
                attempt = [*chosen, entry]
                taken = {other.group_id for other in attempt}
                fill = [other for other in finished if other.group_id not in taken]
                if self.safe(admitted, version, [*attempt, *fill[: size - len(attempt)]]):
                    chosen = attempt
                if len(chosen) == size:
                    break
        return sorted(chosen, key=lambda entry: entry.group_id)
