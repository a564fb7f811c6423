"""`fixed_workflow`: the same sensible workflow for every task."""

from __future__ import annotations

from wfr.evaluation.policies.base import Policies, Setting
from wfr.evaluation.policies.scripts import Script, policies
from wfr.evaluation.policies.tool_script import ToolCall
from wfr.workflow.edits import AddConditional, AddOperator


def fixed_workflow(setting: Setting) -> Policies:
    """Search and answer from what was found; on a canvas: plan, solve, check and repair, format.

    The canvas workflow has five operators and a structure, so the default gate lets it finish
    (but for programs with public tests, which ask for Test). Raises PolicyError.
    """
    script: Script
    if setting.kind == "think_act":
        setting.need("fixed_workflow", "Search", "AnswerGenerate")
        script = (ToolCall("Search"), ToolCall("AnswerGenerate"))
    else:
        setting.need("fixed_workflow", "Plan", "Custom", "Review", "Revise", "Format")
        script = (
            AddOperator("Plan"),
            AddOperator("Custom"),
            AddConditional("Review", "", "Revise"),
            AddOperator("Format"),
        )
    return policies(setting, script)
