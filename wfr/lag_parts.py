"""Which part of a lag arose where: while sampling, in the environment, or in the queue.

A turn k is consumed by version c, and its lag is c − (oldest version among its tokens), as in
`wfr.staleness`. Let a clock show that oldest version, and walk over the episode from turn k on. The
clock never goes back, and every step that it makes is one published version:

* to the oldest version of a later turn: *environment*, an update while operators ran or the
  episode waited for its turn at the sampler,
* to the newest version of a turn, k itself or a later one: *sampling*, an update in flight,
* from where the episode ends to c: *queue*, an update while siblings were played, the last
  operator ran, or the finished group waited.

So the three parts add up to the lag. A later turn may hold older tokens than the clock shows, where
the episode moved to a sampler that got the update later; the clock then stands still.

The *age of the KV cache* is no part of the lag: with `weights.in_flight: keep_kv` the last token
of a turn reads entries that its first token's version has computed, newest − oldest versions ago.
Entries never outlive a request, so that no turn reads those of another version's prefix.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Self

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class LagParts:
    """Versions by where they passed, for each turn of an episode: int64 [turns] each."""

    sampling: np.ndarray
    environment: np.ndarray
    queue: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, oldest: np.ndarray, newest: np.ndarray, consuming_version: int) -> Self:
        """Split the lags of an episode.

        Args:
            oldest: int64 [turns], oldest version among the tokens of each turn.
            newest: int64 [turns], newest version among them.
            consuming_version: the version that the step trains.
        """
        spread = newest - oldest
        clock, sampling = newest.copy(), spread.copy()
        environment = np.zeros_like(oldest)
        for turn in range(1, len(oldest)):
            before = slice(0, turn)
            began = np.maximum(clock[before], oldest[turn])
            environment[before] += began - clock[before]
            clock[before] = np.maximum(began, newest[turn])
            sampling[before] += clock[before] - began
        return cls(sampling, environment, consuming_version - clock, spread)

    @property
    def lag(self) -> np.ndarray:
        """The lag of each turn: int64 [turns]."""
        lag: np.ndarray = self.sampling + self.environment + self.queue
        return lag


def histograms(parts: Iterable[LagParts]) -> dict[str, dict[int, int]]:
    """How many turns have which lag, as a whole and by part, and which age of the KV cache."""
    counts: dict[str, Counter[int]] = {
        f"lag/turn_{name}": Counter()
        for name in ("total", "sampling", "environment", "queue", "kv_age")
    }
    for each in parts:
        for name, values in (
            ("total", each.lag),
            ("sampling", each.sampling),
            ("environment", each.environment),
            ("queue", each.queue),
            ("kv_age", each.spread),
        ):
            counts[f"lag/turn_{name}"].update(values.tolist())
    return {name: dict(sorted(counter.items())) for name, counter in counts.items()}
