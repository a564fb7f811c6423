"""`heuristic`: the hand-written router of the canvas as a policy."""

from __future__ import annotations

from collections.abc import Sequence

from wfr.environments.base import Environment
from wfr.environments.canvas import Canvas
from wfr.environments.canvas_router import heuristic_policy
from wfr.evaluation.policies.base import Policies, Setting
from wfr.tasks.source import Task
from wfr.trajectory import Message


def heuristic(setting: Setting) -> Policies:
    """The router's advice, taken at every turn; raises PolicyError outside of a canvas."""
    setting.need_kind("heuristic", "canvas")
    setting.need("heuristic")
    return Heuristic


class Heuristic:
    """Looks at the canvas as the router does."""

    def __init__(self, environment: Environment) -> None:
        """Play on a canvas."""
        assert isinstance(environment, Canvas), environment
        self._canvas = environment

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The router's next edit."""
        return heuristic_policy(self._canvas.view())
