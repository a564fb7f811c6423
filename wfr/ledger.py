"""The ledger: what became of every policy token, and of every group."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(slots=True)
class Ledger:
    """Generated = consumed + waiting + the sum of discarded, at every moment.

    Attributes:
        generated: policy tokens that the workers reported.
        consumed: of them, trained on in a published step.
        waiting: of them, in groups that are finished or taken.
        discarded: of them, thrown away, by reason.
        groups_admitted: groups that ever got a slot.
        groups_consumed: of them, trained on in a published step.
        groups_dropped: of them, lost or thrown away, by reason.
        duplicates: groups handed in again, and ignored.
        replayed: consumed tokens that further published steps trained on again, once per step.
    """

    generated: int = 0
    consumed: int = 0
    waiting: int = 0
    discarded: Counter[str] = dataclasses.field(default_factory=Counter)
    groups_admitted: int = 0
    groups_consumed: int = 0
    groups_dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    duplicates: int = 0
    replayed: int = 0

    def generate(self, tokens: int, discarded: Mapping[str, int]) -> None:
        """Tokens of a group came in, and with them others that its worker had thrown away."""
        self.generated += tokens + sum(discarded.values())
        self.waiting += tokens
        self.discarded.update(discarded)

    def discard(self, reason: str, tokens: int) -> None:
        """Waiting tokens are thrown away."""
        self.waiting -= tokens
        self.discarded[reason] += tokens

    def consume(self, tokens: int, groups: int) -> None:
        """Waiting tokens were trained on."""
        self.waiting -= tokens
        self.consumed += tokens
        self.groups_consumed += groups

    @property
    def missing(self) -> int:
        """Tokens that are unaccounted for; 0 where the ledger closes."""
        return self.generated - self.consumed - self.waiting - self.discarded.total()

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or a metric."""
        return {
            **dataclasses.asdict(self),
            "discarded": dict(self.discarded),
            "groups_dropped": dict(self.groups_dropped),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The ledger of `state()`."""
        counters = {key: Counter(state[key]) for key in ("discarded", "groups_dropped")}
        return cls(**{**state, **counters})
