"""The columns of one packed micro-batch as the objective reads them: checked and cleaned."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from learner.segments import Layout

LOGP_SLACK = 1e-2
"""A log-probability above 0 by no more than this is rounding in some kernel."""


class ImpossibleValueError(ValueError):
    """A recorded column holds what it cannot; `row` and `turn` say where."""

    def __init__(self, message: str, row: int, turn: int) -> None:
        """Place the fault in `row` and `turn` of the batch."""
        super().__init__(f"{message} (row {row}, turn {turn})")
        self.row, self.turn = row, turn


class DivergedError(FloatingPointError):
    """The policy in training has no finite log-probability; `row` and `turn` say where."""

    def __init__(self, message: str, row: int, turn: int) -> None:
        """Place the fault in `row` and `turn` of the batch."""
        super().__init__(f"{message} (row {row}, turn {turn})")
        self.row, self.turn = row, turn


@dataclasses.dataclass(frozen=True, slots=True)
class Columns:
    """Per-token columns, all [T]; every float is 0 where a token does not count.

    Attributes:
        layout: row and turn of each token.
        keep: bool, policy tokens of turns that are young enough and of units not rejected.
        rejected: bool, policy tokens of units that are left out for being too far from μ.
        lag: int64, lag of the token's turn in optimizer steps; none if it was not given.
        logp: log π_θ.
        proximal: log π_prox.
        behaviour: log μ.
        advantage: A.
        reference: log π_ref, if given.
        entropy: entropy of π_θ, if given.
    """

    layout: Layout
    keep: Tensor
    rejected: Tensor
    lag: Tensor | None
    logp: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantage: Tensor
    reference: Tensor | None
    entropy: Tensor | None

    @property
    def ages(self) -> Tensor:
        """Lag of each token's turn, 0 where it is unknown: int64 [T]."""
        return torch.zeros_like(self.layout.turn) if self.lag is None else self.lag


def need(column: Tensor | None, name: str, setting: str, needed: bool) -> None:
    """Raise ValueError where `setting` needs a column that is not there."""
    if needed and column is None:
        raise ValueError(f"{name} is missing, and the objective's {setting} needs it")


def check_shapes(total: int, **columns: Tensor | None) -> None:
    """Raise ValueError, naming the column, unless all that are given have shape [total]."""
    if not total:
        raise ValueError("logp is empty; a micro-batch has at least one token")
    for name, column in columns.items():
        if column is not None and column.shape != (total,):
            raise ValueError(f"{name} has shape {tuple(column.shape)}, expected ({total},)")


def check_types(**columns: Tensor | None) -> None:
    """Raise ValueError, naming the column, unless all that are given are int64."""
    for name, column in columns.items():
        if column is not None and column.dtype != torch.int64:
            raise ValueError(f"{name} has dtype {column.dtype}, expected torch.int64")


@torch.no_grad()
def check_values(layout: Layout, **columns: Tensor | None) -> None:
    """Refuse values that a policy token cannot have, naming the column, the row and the turn.

    Raises:
        DivergedError: a column of the policy in training is not finite.
        ImpossibleValueError: a recorded column is not finite, a log-probability is above 0, a lag
            below.
    """
    for name, column in columns.items():
        if column is None:
            continue
        impossible = _impossible(name, column) & layout.policy
        if impossible.any():
            token = int(impossible.nonzero()[0])
            value = column[token].item()
            diverged = name in ("logp", "proximal_logp") and not math.isfinite(value)
            raise (DivergedError if diverged else ImpossibleValueError)(
                f"{name} is {value} at token {token}",
                int(layout.row[token]),
                int(layout.turn[token]),
            )


def _impossible(name: str, column: Tensor) -> Tensor:
    """Mark values that `name` cannot have: bool [T]."""
    if name == "turn_lag":
        return column < 0
    infinite = ~column.isfinite()
    return infinite if name == "advantage" else infinite | (column > LOGP_SLACK)


def per_token(advantage: Tensor, layout: Layout) -> Tensor:
    """Bring an advantage per row, or per token, to one per token: [rows] or [T] → [T].

    Raises:
        ValueError: it has neither length.
    """
    total = len(layout.row)
    if advantage.ndim != 1 or (len(advantage) != total and len(advantage) < layout.rows):
        raise ValueError(
            f"advantage has shape {tuple(advantage.shape)}, expected ({total},) for one per token "
            f"or at least ({layout.rows},) for one per row"
        )
    return advantage if len(advantage) == total else advantage.index_select(0, layout.row)


def check_order(layout: Layout) -> None:
    """Raise ValueError, naming row and turn, unless turns rise along the tokens of each row.

    Two turns of one row that share an id would silently count as one sub-sequence.
    """
    policy = torch.nonzero(layout.policy)[:, 0]
    row, turn = layout.row[policy], layout.turn[policy]
    if bool((row[1:] < row[:-1]).any()):
        order = row.argsort(stable=True)
        policy, row, turn = policy[order], row[order], turn[order]
    falls = torch.nonzero((row[1:] == row[:-1]) & (turn[1:] < turn[:-1]))
    if len(falls):
        at = int(falls[0, 0])
        raise ValueError(
            f"turn_id is out of order at token {int(policy[at + 1])}: turn {int(turn[at + 1])} of "
            f"row {int(row[at + 1])} follows its turn {int(turn[at])}"
        )


def clean(column: Tensor, keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Put 0 where a token does not count, so that garbage there reaches no value or gradient."""
    return torch.where(keep, column, 0).to(dtype)
