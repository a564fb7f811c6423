"""`direct`: one AnswerGenerate, and its answer."""

from __future__ import annotations

from wfr.evaluation.policies.base import Policies, Setting
from wfr.evaluation.policies.scripts import Script, policies
from wfr.evaluation.policies.tool_script import ToolCall
from wfr.workflow.edits import AddOperator


def direct(setting: Setting) -> Policies:
    """The executor's own answer to the bare task; raises PolicyError."""
    setting.need("direct", "AnswerGenerate")
    script: Script = (ToolCall("AnswerGenerate"),)
    if setting.kind == "canvas":
        script = (AddOperator("AnswerGenerate"),)
    return policies(setting, script)
