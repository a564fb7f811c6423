"""`cot`: one Custom that is told to reason step by step (chain of thought)."""

from __future__ import annotations

from wfr.evaluation.policies.base import Policies, Setting
from wfr.evaluation.policies.scripts import Script, policies
from wfr.evaluation.policies.tool_script import ToolCall
from wfr.workflow.edits import AddOperator

INSTRUCTION = (
    "Think step by step: write down each step of the reasoning, check it, and then give the "
    "answer as a short phrase."
)


def cot(setting: Setting) -> Policies:
    """Chain of thought (arXiv 2201.11903) without examples; raises PolicyError."""
    setting.need("cot", "Custom")
    script: Script = (ToolCall("Custom", INSTRUCTION),)
    if setting.kind == "canvas":
        script = (AddOperator("Custom", INSTRUCTION),)
    return policies(setting, script)
