"""Packing: trajectories of any length into flat micro-batches without padding.

Tokens of all trajectories of a micro-batch follow each other; `position_ids` restart with each
context of each of them, which is how the policy keeps attention inside a context. The
log-probability of token t comes from the hidden state at t − 1, the token before it in its own
context, so a context must begin with a token that the policy did not write. What a context is
makes no difference to the objective: rows, turns and their counts are those of trajectories.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from learner.aggregation import Denominators
from wfr.columns import Episode
from wfr.trajectory import Trajectory

QUADRATIC_LENGTH = 4096
"""Length at which attention costs as much as the rest of the model."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One trajectory as the learner sees it.

    Attributes:
        name: group and sibling, for error messages.
        tokens: int [n], up to the last policy token; what follows cannot change the loss.
        turn_id: int [n], −1 outside policy tokens.
        behaviour_logp: float [n].
        turn_lag: int [n], optimizer steps since the oldest token of the turn was sampled.
        version: int [n], weights under which the token was sampled; −1 outside policy tokens.
        advantage: of the whole trajectory.
        contexts: where contexts begin, in order, the first at 0.
    """

    name: str
    tokens: np.ndarray
    turn_id: np.ndarray
    behaviour_logp: np.ndarray
    turn_lag: np.ndarray
    version: np.ndarray
    advantage: float
    contexts: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, trajectory: Trajectory | Episode, advantage: float, version: int) -> Row:
        """Read a trajectory that is consumed by the optimizer step after weights `version`.

        Raises:
            ValueError: it has no policy token, a context of it starts with one, or it is newer than
                `version`.
        """
        name = f"{trajectory.group_id}/{trajectory.sibling}"
        written = np.flatnonzero(trajectory.turn_id >= 0)
        if not len(written) or written[0] == 0:
            raise ValueError(
                f"trajectory {name}: policy tokens must exist and follow a prompt; it has "
                f"{len(written)} policy tokens among {len(trajectory.tokens)}"
            )
        lags = version - np.fromiter(trajectory.turn_oldest_version(), np.int64)
        if lags.min() < 0:
            raise ValueError(f"trajectory {name}: sampled after version {version}: lags {lags}")
        contexts = tuple(dict.fromkeys((0, *map(int, trajectory.turn_context()))))
        if (trajectory.turn_id[list(contexts)] >= 0).any():
            raise ValueError(f"trajectory {name}: a context begins with a policy token: {contexts}")
        end = int(written[-1]) + 1
        turn_id = trajectory.turn_id[:end].astype(np.int64)
        return cls(
            name=name,
            tokens=trajectory.tokens[:end],
            turn_id=turn_id,
            behaviour_logp=trajectory.behaviour_logprob[:end],
            turn_lag=np.where(turn_id >= 0, lags[turn_id], 0),
            version=trajectory.token_versions()[:end],
            advantage=advantage,
            contexts=contexts,
        )

    def __len__(self) -> int:
        """Count of tokens, prompt and observations included."""
        return len(self.tokens)

    @property
    def context_lengths(self) -> np.ndarray:
        """Count of tokens of each context: int64 [contexts]."""
        return np.diff([*self.contexts, len(self)])


@dataclasses.dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch of T tokens; the columns are those of `learner.objectives.policy_loss`.

    Attributes:
        input_ids: int64 [T].
        position_ids: int64 [T], restart at 0 with each context of each trajectory.
        turn_id: int64 [T], −1 outside policy tokens.
        row_id: int64 [T], trajectory of each token, counted inside this micro-batch.
        behaviour_logp: float32 [T].
        turn_lag: int64 [T].
        version: int64 [T], −1 outside policy tokens.
        advantage: float32 [rows].
        names: of the rows, for error messages.
    """

    input_ids: Tensor
    position_ids: Tensor
    turn_id: Tensor
    row_id: Tensor
    behaviour_logp: Tensor
    turn_lag: Tensor
    version: Tensor
    advantage: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Count of tokens."""
        return len(self.input_ids)

    @property
    def lengths(self) -> list[int]:
        """Count of tokens of each row."""
        counts: list[int] = torch.bincount(self.row_id, minlength=len(self.names)).tolist()
        return counts

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The columns that the policy's forward pass takes, by their names there."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "turn_id": self.turn_id,
        }

    def to(self, device: torch.device | str) -> Self:
        """Copy every column to `device`."""
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tensors = {k: v.to(device) for k, v in columns.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **tensors)  # type: ignore[arg-type]


def pack(rows: Sequence[Row]) -> PackedBatch:
    """Lay rows one after the other.

    No rows give one token that counts nowhere, for a rank that has nothing to do but must take
    part in the others' collectives.
    """
    if not rows:
        nothing = np.zeros(1, np.int64)
        rows = [Row("none", nothing, nothing - 1, nothing, nothing, nothing - 1, 0.0)]
    lengths = [len(row) for row in rows]

    def column(parts: Iterable[np.ndarray], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.concatenate(list(parts)).astype(dtype))

    return PackedBatch(
        input_ids=column((row.tokens for row in rows), np.int64),
        position_ids=column((np.arange(n) for row in rows for n in row.context_lengths), np.int64),
        turn_id=column((row.turn_id for row in rows), np.int64),
        row_id=torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)),
        behaviour_logp=column((row.behaviour_logp for row in rows), np.float32),
        turn_lag=column((row.turn_lag for row in rows), np.int64),
        version=column((row.version for row in rows), np.int64),
        advantage=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        names=tuple(row.name for row in rows),
    )


def denominators(rows: Iterable[Row]) -> Denominators:
    """Count the rows of a whole optimizer step, over all ranks."""
    counts = [int(np.count_nonzero(row.turn_id >= 0)) for row in rows]
    return Denominators(sum(counts), sum(count > 0 for count in counts))


def plan(
    rows: Sequence[Row], *, ranks: int, max_tokens: int, quadratic_length: float = QUADRATIC_LENGTH
) -> list[list[list[int]]]:
    """Share rows among ranks and micro-batches: plan[rank][step] lists indices into `rows`.

    A row of contexts of n tokens each costs Σ n + n²/quadratic_length. Rows go, dearest first, to
    the cheapest micro-batch that has room (longest processing time first); then micro-batches of
    similar cost share a step, because ranks wait for each other. Every rank gets the same number of
    micro-batches, the fewest that fit; some may be empty. Only lengths and their order matter.

    Raises:
        ValueError: naming a row that is longer than `max_tokens`.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    if len(rows) and lengths.max() > max_tokens:
        worst = int(lengths.argmax())
        raise ValueError(
            f"trajectory {rows[worst].name} has {lengths[worst]} tokens; a micro-batch holds at "
            f"most max_tokens={max_tokens}"
        )
    squares = np.array([np.square(row.context_lengths).sum() for row in rows])
    costs = lengths + squares / quadratic_length
    steps = max(1, math.ceil(lengths.sum() / (ranks * max_tokens)))
    while (bins := _fill(lengths, costs, ranks * steps, max_tokens)) is None:
        steps += 1
    return _deal(bins, costs, ranks)


def _fill(
    lengths: np.ndarray, costs: np.ndarray, count: int, max_tokens: int
) -> list[list[int]] | None:
    """Put every row into one of `count` bins; none if the greedy rule finds no room."""
    bins: list[list[int]] = [[] for _ in range(count)]
    load, room = np.zeros(count), np.full(count, max_tokens)
    for index in np.argsort(-costs, kind="stable"):
        cheapest = int(np.where(room >= lengths[index], load, np.inf).argmin())
        if room[cheapest] < lengths[index]:
            return None
        bins[cheapest].append(int(index))
        load[cheapest] += costs[index]
        room[cheapest] -= lengths[index]
    return [sorted(content) for content in bins]


def _deal(bins: list[list[int]], costs: np.ndarray, ranks: int) -> list[list[list[int]]]:
    """Deal bins to ranks, dearest first, turning around after each step: [rank][step]."""
    order = sorted(bins, key=lambda content: -costs[content].sum())
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    for start in range(0, len(order), ranks):
        step = order[start : start + ranks]
        if start // ranks % 2:
            step.reverse()
        for rank, content in enumerate(step):
            dealt[rank].append(content)
    return dealt
