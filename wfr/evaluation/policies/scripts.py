"""Scripts of either environment: what is played whatever the task is."""

from __future__ import annotations

from typing import TypeAlias, cast

from wfr.environments.base import Environment
from wfr.evaluation.policies.base import Policies, Policy, Setting
from wfr.evaluation.policies.edit_script import EditScript
from wfr.evaluation.policies.tool_script import ToolCall, ToolScript
from wfr.workflow.edits import Edit

Script: TypeAlias = tuple[ToolCall, ...] | tuple[Edit, ...]


def policies(setting: Setting, script: Script) -> Policies:
    """A policy that plays `script`; it remembers nothing, so all episodes share it."""
    player: Policy
    if setting.kind == "canvas":
        player = EditScript(cast("tuple[Edit, ...]", script))
    else:
        player = ToolScript(setting.offered, cast("tuple[ToolCall, ...]", script))

    def shared(environment: Environment) -> Policy:
        return player

    return shared
