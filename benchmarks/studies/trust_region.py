"""Clip bounds of one effective trust region: as many tokens clipped, whatever the ratio's unit.

A geometric mean over many tokens spreads less than the ratio of one token, so that one ε is a
narrow trust region for tokens and none at all for sequences. Here ε of each unit is that which
clips the same share of recorded policy tokens as a reference unit does at its ε, both sides
together. Units are clipped whole, so shares agree as far as units are small; the share that was
reached is kept beside the bound.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from learner.packing import PackedBatch, Row, pack
from learner.policy import Policy
from learner.ratios import ratio
from learner.segments import Layout
from wfr.advantage import advantages
from wfr.columns import views
from wfr.objective_config import RatioUnit
from wfr.recording import read_batches

UNITS: tuple[RatioUnit, ...] = get_args(RatioUnit)


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """The clip bounds ± `epsilon` of one unit, and the share of policy tokens that they clip."""

    epsilon: float
    share: float

    @property
    def overrides(self) -> tuple[str, ...]:
        """As `--set` takes them; a ratio is never below 0, so ε_low is at most 1."""
        low = min(self.epsilon, 1.0)
        return (f"objective.clip_low={low:g}", f"objective.clip_high={self.epsilon:g}")


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """A recorded batch under the weights that would have trained on it.

    Attributes:
        logp: float [T], log π_θ of each token.
        behaviour_logp: float [T], log μ as recorded.
        advantage: float [rows].
        turn_id: int64 [T], −1 outside policy tokens.
        row_id: int64 [T].
    """

    logp: Tensor
    behaviour_logp: Tensor
    advantage: Tensor
    turn_id: Tensor
    row_id: Tensor

    def outward(self, unit: RatioUnit) -> np.ndarray:
        """How far out each token's unit is: float64 [tokens with an advantage].

        That is ρ − 1 where the advantage is positive and 1 − ρ where it is negative: what is
        compared with ε.
        """
        layout = Layout.of(self.turn_id, self.row_id)
        ratios = ratio(self.logp, self.behaviour_logp, layout.segments(unit))
        advantage = self.advantage[layout.row]
        outward = (ratios - 1) * advantage.sign()
        chosen: np.ndarray = outward[layout.policy & (advantage != 0)].double().numpy()
        return chosen

    @property
    def policy_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return int((self.turn_id >= 0).sum())


def calibrate(batch: Scored, reference: RatioUnit, epsilon: float) -> dict[RatioUnit, Bounds]:
    """Bounds of every unit that clip as much of `batch` as `reference` does at ± `epsilon`.

    Raises:
        ValueError: the reference clips nothing, or a unit would have to be clipped inside the
            ratio 1: the batch is too close to the weights to say anything.
    """
    total = batch.policy_tokens
    share = _share(batch.outward(reference), epsilon, total)
    if not share:
        raise ValueError(f"unit {reference} clips nothing at ε={epsilon:g}: take an older batch")
    bounds: dict[RatioUnit, Bounds] = {}
    for unit in UNITS:
        outward = batch.outward(unit)
        found = epsilon if unit == reference else outer(outward, total, share)
        if found <= 0:
            raise ValueError(f"unit {unit} has no ε that clips {share:.4f} of the tokens")
        bounds[unit] = Bounds(found, _share(outward, found, total))
    return bounds


def _share(values: np.ndarray, epsilon: float, total: int) -> float:
    return float((values > epsilon).sum()) / total


def outer(values: np.ndarray, total: int, share: float) -> float:
    """The threshold above which lie as near to `share` × `total` of `values` as can be.

    It lies half-way between two neighbouring values, rounded to six significant digits, so that it
    can be written down.
    """
    levels, counts = np.unique(values, return_counts=True)
    if not len(levels):
        return 0.0
    beyond = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])  # values ≥ levels[i]
    best = int(np.argmin(np.abs(beyond / total - share)))
    neighbours = levels[max(0, best - 1) : best + 1]
    return float(f"{neighbours.mean():.6g}")


def read(run: Path, version: int, max_tokens: int = 4096) -> Scored:
    """The batch that a run trained on next after its checkpoint of `version`, under its weights.

    Groups of equal rewards are left out. Log-probabilities are computed in float32.

    Raises:
        ValueError: the run has not taken that step.
    """
    names = [record["groups"] for record in _steps(run) if record["step"] == version + 1]
    if not names:
        raise ValueError(f"{run} has no step {version + 1}")
    wanted = {str(name) for name in names[0]}
    chosen = [
        group for group in views(list(read_batches(run / "journal"))) if group.group_id in wanted
    ]
    checkpoint = run / "checkpoints" / str(version)
    rows = [
        Row.of(trajectory, float(value), version)
        for group, compared in zip(chosen, advantages(chosen, "zscore"), strict=True)
        if not compared.zero_variance
        for trajectory, value, counts in zip(
            group.trajectories, compared.values, compared.scored, strict=True
        )
        if counts
    ]
    policy = _policy(checkpoint)
    return joined([_score(policy, pack(part)) for part in _chunks(rows, max_tokens)])


def _chunks(rows: list[Row], max_tokens: int) -> list[list[Row]]:
    ends = itertools.accumulate(len(row) for row in rows)
    keyed = [(end // max_tokens, row) for end, row in zip(ends, rows, strict=True)]
    return [[row for _, row in part] for _, part in itertools.groupby(keyed, lambda each: each[0])]


def _policy(checkpoint: Path) -> Policy:
    from transformers import AutoModelForCausalLM

    return Policy(AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32))


@torch.no_grad()
def _score(policy: Policy, batch: PackedBatch) -> Scored:
    logp, _ = policy(**batch.inputs)
    return Scored(logp, batch.behaviour_logp, batch.advantage, batch.turn_id, batch.row_id)


def joined(parts: Sequence[Scored]) -> Scored:
    """Several batches as one."""
    starts = np.cumsum([0, *(len(part.advantage) for part in parts)])
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Scored)
    }
    columns["row_id"] = torch.cat(
        [part.row_id + int(start) for part, start in zip(parts, starts, strict=False)]
    )
    return Scored(**columns)


def _steps(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "step"]


def write(bounds: Mapping[RatioUnit, Bounds], path: Path) -> None:
    """Keep bounds as JSON."""
    text = json.dumps({unit: dataclasses.asdict(each) for unit, each in bounds.items()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> dict[RatioUnit, Bounds]:
    """Bounds that were kept."""
    kept = json.loads(path.read_text("utf-8"))
    return {unit: Bounds(**kept[unit]) for unit in UNITS}
