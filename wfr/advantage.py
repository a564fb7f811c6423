"""Advantages: how much better a trajectory did than its siblings, or than its batch.

    zscore         (r_i − mean r) / (std r + 1e-6)     Workflow-R1 as run, specification 4.6
    centred        r_i − mean r                        Dr. GRPO, arXiv 2503.20783
    leave_one_out  r_i − mean_{j≠i} r_j                RLOO, arXiv 2402.14740
    batch          (r_i − mean r) / (std r + 1e-6)     REINFORCE++, arXiv 2501.03262

over the scored siblings of one group, or (`batch`) over the scored trajectories of one batch, with
the unbiased standard deviation (ddof 1). One reward alone has nothing to be compared with; its
advantage is itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from wfr.trajectory import Group

Kind = Literal["zscore", "centred", "leave_one_out", "batch"]
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class GroupAdvantage:
    """Advantages of one group.

    Attributes:
        values: float32 [G], one per trajectory; 0 for those that the world failed.
        scored: bool [G], which trajectories count.
        zero_variance: all rewards that were compared (of the group, or for `batch` of the batch)
            are equal, so the group teaches nothing (one reward alone is not such a case).
    """

    values: np.ndarray
    scored: np.ndarray
    zero_variance: bool


def advantages(groups: Sequence[Group], kind: Kind) -> list[GroupAdvantage]:
    """Advantages of the groups of one batch; raises ValueError as `group_advantage` does."""
    if kind != "batch":
        return [group_advantage(group, kind) for group in groups]
    masks = [_scored(group) for group in groups]
    rewards = [_rewards(group, mask) for group, mask in zip(groups, masks, strict=True)]
    pooled = np.concatenate([np.zeros(0), *rewards])
    ends = np.cumsum([len(part) for part in rewards])
    parts = np.split(advantage(pooled, "zscore"), ends)[: len(groups)]
    flat = _flat(pooled)
    return [_spread(mask, part, flat) for mask, part in zip(masks, parts, strict=True)]


def group_advantage(
    group: Group, kind: Literal["zscore", "centred", "leave_one_out"]
) -> GroupAdvantage:
    """Advantages over the scored siblings; raises ValueError where one has no finite reward."""
    scored = _scored(group)
    rewards = _rewards(group, scored)
    return _spread(scored, advantage(rewards, kind), _flat(rewards))


def advantage(
    rewards: np.ndarray, kind: Literal["zscore", "centred", "leave_one_out"]
) -> np.ndarray:
    """Advantages of the rewards [n], which are compared with each other; all scored."""
    count = len(rewards)
    if count < 2:
        return rewards
    centred: np.ndarray = rewards - rewards.mean()
    if kind == "centred":
        return centred
    # r_i − (Σ r − r_i) / (n − 1) = (r_i − mean r) n / (n − 1)
    scale = (count - 1) / count if kind == "leave_one_out" else rewards.std(ddof=1) + _EPSILON
    scaled: np.ndarray = centred / scale
    return scaled


def _scored(group: Group) -> np.ndarray:
    return np.array([not t.stop_reason.is_world_failure for t in group.trajectories], bool)


def _rewards(group: Group, scored: np.ndarray) -> np.ndarray:
    """Rewards of the scored trajectories: float64."""
    rewards: np.ndarray = np.array([t.reward for t in group.trajectories], np.float64)[scored]
    if not np.isfinite(rewards).all():
        raise ValueError(f"group {group.group_id}: a scored trajectory has no finite reward")
    return rewards


def _flat(rewards: np.ndarray) -> bool:
    return len(rewards) > 1 and bool(np.ptp(rewards) == 0)


def _spread(scored: np.ndarray, compared: np.ndarray, flat: bool) -> GroupAdvantage:
    """Put the advantages of the scored trajectories in their places."""
    values = np.zeros(len(scored), np.float32)
    values[scored] = compared
    return GroupAdvantage(values, scored, flat)
