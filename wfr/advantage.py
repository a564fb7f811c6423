"""Advantages: how much better a trajectory did than those that it is compared with.

    zscore                     (r_i − mean r) / (std r + 1e-6)     Workflow-R1 as run, spec. 4.6
    centred                    r_i − mean r                        Dr. GRPO, arXiv 2503.20783
    leave_one_out              r_i − mean_{j≠i} r_j                RLOO, arXiv 2402.14740
    batch                      (r_i − mean r) / (std r + 1e-6)     REINFORCE++, arXiv 2501.03262
    source_partitioned         (r_i − mean r) / (std r + 1e-6)     FlowSteer, spec. 5.2
    source_partitioned_legacy  (r_i − mean r) / max(s, 0.01)       as its code has it; s: ddof 0

The first three compare the scored siblings of one group; `batch` all scored trajectories of the
batch; the last two those whose tasks come from one source. std is the unbiased standard deviation
(ddof 1). One reward alone has nothing to be compared with; its advantage is itself, but for
`source_partitioned_legacy`, where it is 0. That variant also divides nearly equal rewards by 0.01,
so that a difference of 0.02 becomes an advantage of 1; take it to repeat a run, not to begin one.
Siblings that the world failed are outside every comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from wfr.columns import GroupView
from wfr.objective_config import AdvantageKind
from wfr.trajectory import Group

_EPSILON = 1e-6
_LEAST_SPREAD = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class GroupAdvantage:
    """Advantages of one group.

    Attributes:
        values: float32 [G], one per trajectory; 0 for those that the world failed.
        scored: bool [G], which trajectories count.
        zero_variance: all rewards that were compared are equal, so the group teaches nothing (one
            reward alone is not such a case).
    """

    values: np.ndarray
    scored: np.ndarray
    zero_variance: bool


def advantages(groups: Sequence[Group | GroupView], kind: AdvantageKind) -> list[GroupAdvantage]:
    """Advantages of the groups of one batch.

    Raises:
        ValueError: a scored trajectory has no finite reward.
    """
    masks = [_scored(group) for group in groups]
    rewards = [_rewards(group, mask) for group, mask in zip(groups, masks, strict=True)]
    values = [np.zeros_like(part) for part in rewards]
    flat = [False] * len(groups)
    for members in _partition(groups, kind):
        pooled = np.concatenate([rewards[index] for index in members])
        ends = np.cumsum([len(rewards[index]) for index in members])
        parts = np.split(advantage(pooled, kind), ends)
        for index, part in zip(members, parts, strict=False):
            values[index], flat[index] = part, is_flat(pooled)
    return [_spread(*each) for each in zip(masks, values, flat, strict=True)]


def advantage(rewards: np.ndarray, kind: AdvantageKind) -> np.ndarray:
    """Advantages of the rewards, float64 [n], which are compared with each other; all scored."""
    count = len(rewards)
    legacy = kind == "source_partitioned_legacy"
    if count < (1 if legacy else 2):
        return rewards
    centred: np.ndarray = rewards - rewards.mean()
    if legacy:
        scale = max(rewards.std(ddof=0), _LEAST_SPREAD)
    elif kind == "leave_one_out":  # r_i − (Σ r − r_i) / (n − 1) = (r_i − mean r) n / (n − 1)
        scale = (count - 1) / count
    else:
        scale = 1.0 if kind == "centred" else rewards.std(ddof=1) + _EPSILON
    scaled: np.ndarray = centred / scale
    return scaled


def is_flat(rewards: np.ndarray) -> bool:
    """True where at least two rewards were compared and all are equal."""
    return len(rewards) > 1 and bool(np.ptp(rewards) == 0)


def _partition(groups: Sequence[Group | GroupView], kind: AdvantageKind) -> list[list[int]]:
    """Which groups are compared with each other."""
    parts: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        key: object = index
        if kind == "batch":
            key = None
        elif kind in ("source_partitioned", "source_partitioned_legacy"):
            key = _source(group)
        parts.setdefault(key, []).append(index)
    return list(parts.values())


def _source(group: Group | GroupView) -> str:
    return group.trajectories[0].source if group.trajectories else ""


def _scored(group: Group | GroupView) -> np.ndarray:
    return np.array([not t.stop_reason.is_world_failure for t in group.trajectories], bool)


def _rewards(group: Group | GroupView, scored: np.ndarray) -> np.ndarray:
    """Rewards of the scored trajectories: float64."""
    rewards: np.ndarray = np.array([t.reward for t in group.trajectories], np.float64)[scored]
    if not np.isfinite(rewards).all():
        raise ValueError(f"group {group.group_id}: a scored trajectory has no finite reward")
    return rewards


def _spread(scored: np.ndarray, compared: np.ndarray, flat: bool) -> GroupAdvantage:
    """Put the advantages of the scored trajectories in their places."""
    values = np.zeros(len(scored), np.float32)
    values[scored] = compared
    return GroupAdvantage(values, scored, flat)
