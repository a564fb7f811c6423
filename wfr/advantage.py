"""Group advantages: how much better a trajectory did than its siblings.

z-score (Workflow-R1 as run, specification 4.6): A_i = (r_i − mean r) / (std r + 1e-6), with the
unbiased standard deviation (ddof 1) over the scored siblings of one group. Mean-centred (Dr. GRPO,
arXiv 2503.20783): A_i = r_i − mean r. A group of one has no siblings to compare with; its advantage
is its reward.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from wfr.trajectory import Group

Kind = Literal["zscore", "centred"]
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class GroupAdvantage:
    """Advantages of one group.

    Attributes:
        values: float32 [G], one per trajectory; 0 for those that the world failed.
        scored: bool [G], which trajectories count.
        zero_variance: all scored rewards are equal, so the group teaches nothing (a group of one
            is not such a group).
    """

    values: np.ndarray
    scored: np.ndarray
    zero_variance: bool


def group_advantage(group: Group, kind: Kind) -> GroupAdvantage:
    """Advantages over the scored siblings; raises ValueError where one has no finite reward."""
    scored = np.array([not t.stop_reason.is_world_failure for t in group.trajectories], bool)
    rewards = np.array([t.reward for t in group.trajectories], np.float64)
    if not np.isfinite(rewards[scored]).all():
        raise ValueError(f"group {group.group_id}: a scored trajectory has no finite reward")
    values = np.zeros(len(rewards), np.float32)
    values[scored] = advantage(rewards[scored], kind)
    flat = scored.sum() > 1 and np.ptp(rewards[scored]) == 0
    return GroupAdvantage(values, scored, bool(flat))


def advantage(rewards: np.ndarray, kind: Kind) -> np.ndarray:
    """Advantages of the rewards [n] of one group, all scored."""
    if len(rewards) < 2:
        return rewards
    centred: np.ndarray = rewards - rewards.mean()
    if kind == "centred":
        return centred
    scaled: np.ndarray = centred / (rewards.std(ddof=1) + _EPSILON)
    return scaled
