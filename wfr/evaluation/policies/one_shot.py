"""`one_shot`: the whole workflow is decided before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wfr.environments.base import Environment
from wfr.evaluation.policies.base import Policies, Policy, Setting
from wfr.evaluation.policies.edit_script import EditScript
from wfr.tasks.source import Task
from wfr.trajectory import Message
from wfr.workflow.edits import AddConditional, AddOperator, Edit

_NEEDS = ("Plan", "Programmer", "Custom", "Review", "Verify", "Test", "Revise", "Format")


def one_shot(setting: Setting) -> Policies:
    """Static orchestration: a workflow by the task's type alone; no feedback is ever read.

    The canvas takes one edit a turn, so the edits come one after another, but none of them depends
    on what the others brought.

    Raises:
        PolicyError: another environment, or the pool lacks an operator.
    """
    setting.need_kind("one_shot", "canvas")
    setting.need("one_shot", *_NEEDS)

    def policies(environment: Environment) -> Policy:
        return OneShot()

    return policies


class OneShot:
    """Plays the workflow of the task's type."""

    async def act(self, task: Task, messages: Sequence[Message]) -> str:
        """The next edit of that workflow."""
        kind = task.meta.get("problem_type", "")
        return await _SCRIPTS.get(kind, _SCRIPTS[""]).act(task, messages)


def _workflow(solver: str, check: str) -> EditScript:
    edits: tuple[Edit, ...] = (
        AddOperator("Plan"),
        AddOperator(solver),
        AddConditional(check, "", "Revise"),
    )
    return EditScript(edits if check == "Test" else (*edits, AddOperator("Format")))


_SCRIPTS: Mapping[str, EditScript] = {
    "": _workflow("Custom", "Review"),
    "math": _workflow("Programmer", "Verify"),
    "code": _workflow("Programmer", "Test"),
}
