"""The workload: endless groups of episodes, each turn with its lengths and its operator."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from wfr.planner.scenario import EpisodesPlan, OperatorPlan


@dataclasses.dataclass(frozen=True, slots=True)
class Turns:
    """What the turns of one episode take, in order: one entry per turn.

    Attributes:
        reads: tokens that the engine has to read before the turn.
        tokens: tokens of the turn itself.
        latency: seconds of the operator that the turn calls, waiting for a place not included.
        own: seconds of the worker's own work after the turn.
        operator: index of the operator that the turn calls; −1 for none.
    """

    reads: list[float]
    tokens: list[float]
    latency: list[float]
    own: list[float]
    operator: list[int]

    @property
    def length(self) -> float:
        """Tokens of the whole episode."""
        return sum(self.reads) + sum(self.tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """One group: the turns of its siblings, and whether their rewards were equal."""

    siblings: list[Turns]
    flat: bool = False


class Workload(Protocol):
    """Where groups come from."""

    def groups(self, rng: np.random.Generator, group_size: int) -> Iterator[Drawn]:
        """Groups without end, a function of the generator's state alone."""
        ...


class Assumed:
    """Episodes of assumed distributions."""

    def __init__(self, episodes: EpisodesPlan, operators: Mapping[str, OperatorPlan]) -> None:
        """Draw turns from `episodes`; `operators` are known by their place in the mapping."""
        self._episodes = episodes
        self._operators = tuple(operators.values())

    def groups(self, rng: np.random.Generator, group_size: int) -> Iterator[Drawn]:
        """Groups without end."""
        while True:
            played = self._draw(rng, _CHUNK * group_size)
            for start in range(0, len(played), group_size):
                yield Drawn(played[start : start + group_size])

    def _draw(self, rng: np.random.Generator, count: int) -> list[Turns]:
        plan = self._episodes
        turns = np.maximum(1, np.rint(plan.turns.draw(rng, count))).astype(int)
        total = int(turns.sum())
        ends = np.cumsum(turns)
        begins = ends - turns
        tokens = np.maximum(1, np.rint(plan.turn_tokens.draw(rng, total)))
        reads = np.empty(total)
        reads[begins] = np.rint(plan.prompt_tokens.draw(rng, count))
        later = np.ones(total, bool)
        later[begins] = False
        reads[later] = np.rint(plan.observation_tokens.draw(rng, int(later.sum())))
        own = plan.own_s.draw(rng, total)
        latency = np.zeros(total)
        operator = self._called(rng, total)
        operator[ends - 1] = -1
        for index, each in enumerate(self._operators):
            chosen = np.flatnonzero(operator == index)
            latency[chosen] = each.latency_s.draw(rng, len(chosen))
        columns = (reads.tolist(), tokens.tolist(), latency.tolist(), own.tolist())
        called: list[int] = operator.tolist()
        spans = itertools.pairwise([0, *ends.tolist()])
        return [_cut(*columns, called, a, b) for a, b in spans]

    def _called(self, rng: np.random.Generator, total: int) -> np.ndarray:
        """Index of the operator of each turn, −1 for none: int64 [turns]."""
        bounds = np.cumsum([operator.share for operator in self._operators])
        called = np.searchsorted(bounds, rng.random(total), side="right")
        called[called == len(self._operators)] = -1
        return called


def _cut(
    reads: list[float],
    tokens: list[float],
    latency: list[float],
    own: list[float],
    operator: list[int],
    begin: int,
    end: int,
) -> Turns:
    return Turns(
        *(reads[begin:end], tokens[begin:end], latency[begin:end], own[begin:end]),
        operator[begin:end],
    )


_CHUNK = 64
