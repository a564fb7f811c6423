"""The budget of losses: how many processes a run may lose before it is no use to go on.

Infrastructure fails in bursts, and a burst is no reason to end a run of days; losing process after
process without ever getting a step done is. So a step that is published makes the budget whole.
What data may fail has budgets of its own (`rollout.episode_retries`, `learner.max_refusals`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class LossBudget:
    """Counts the losses of each role since the last step."""

    def __init__(self, processes: Mapping[str, int], retries: int) -> None:
        """`processes` of each role may be lost `retries` times each."""
        self._allowed = {role: count * retries for role, count in processes.items()}
        self._lost: Counter[str] = Counter()

    def lose(self, role: str, processes: int = 1) -> int:
        """Book so many losses at once; returns how many that makes since the last step."""
        self._lost[role] += processes
        return self._lost[role]

    def spent(self, role: str) -> bool:
        """Whether the run has lost more of this role than it may."""
        return self._lost[role] > self._allowed[role]

    def stepped(self) -> None:
        """A step was published: the budget is whole again."""
        self._lost.clear()
