"""`random`: legal turns without a thought for the task, the same ones under the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from wfr.environments.base import Environment
from wfr.environments.canvas import Canvas
from wfr.evaluation.policies.base import Policies, Policy, Setting
from wfr.evaluation.policies.mutation import MOST_STEPS, any_edit, any_operator
from wfr.evaluation.policies.tool_script import ToolCall, ToolScript
from wfr.operators.base import OperatorSpec
from wfr.tasks.source import Task
from wfr.trajectory import Message
from wfr.workflow.edit_text import edit_text
from wfr.workflow.edits import Finish
from wfr.workflow.rules import Rules


def random_legal(setting: Setting) -> Policies:
    """One to six random steps, then the end; raises PolicyError."""
    setting.need("random")

    def policies(environment: Environment) -> Policy:
        if isinstance(environment, Canvas):
            return RandomEdits(environment, setting.offered, setting.seed)
        return RandomCalls(setting.offered, setting.seed)

    return policies


class RandomCalls:
    """A script of calls drawn anew for each task; every one has its inputs."""

    def __init__(self, offered: Mapping[str, OperatorSpec], seed: int) -> None:
        """Draw from `offered`."""
        self._offered = offered
        self._seed = seed

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The next turn of the task's script."""
        rng = random.Random(f"random/{self._seed}/{task.id}")
        names: list[str] = []
        for _ in range(rng.randrange(1, MOST_STEPS + 1)):
            if name := any_operator(self._offered, names, rng):
                names.append(name)
        script = ToolScript(self._offered, [ToolCall(name) for name in names])
        return await script.act(task, messages)


class RandomEdits:
    """An edit that the canvas takes, drawn anew for each task and turn."""

    def __init__(self, canvas: Canvas, offered: Mapping[str, OperatorSpec], seed: int) -> None:
        """Edit `canvas`."""
        self._canvas = canvas
        self._rules = Rules(offered)
        self._seed = seed

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """An edit, or `finish` after as many as were drawn."""
        played = sum(message.role == "assistant" for message in messages)
        wanted = random.Random(f"random/{self._seed}/{task.id}").randrange(1, MOST_STEPS + 1)
        workflow = self._canvas.view().workflow
        if played >= wanted and workflow.size:  # an empty one may not finish
            return edit_text(Finish())
        rng = random.Random(f"random/{self._seed}/{task.id}/{played}")
        return edit_text(any_edit(workflow, self._rules, rng)[0])
