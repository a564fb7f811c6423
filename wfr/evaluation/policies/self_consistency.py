"""`self_consistency`: several answers, and the one that most of them agree on."""

from __future__ import annotations

from wfr.evaluation.policies.base import Policies, PolicyError, Setting
from wfr.evaluation.policies.scripts import Script, policies
from wfr.evaluation.policies.tool_script import ToolCall
from wfr.workflow.edits import AddOperator, AddParallel

_SOLVERS = ("AnswerGenerate", "Custom", "Programmer")


def self_consistency(setting: Setting) -> Policies:
    """Samples of MultiAnswerGenerate, or one answer of each solver, and ScEnsemble's vote.

    Self-consistency (arXiv 2203.11171). One solver asked again at temperature 0 would give the
    same answer again, so without MultiAnswerGenerate the voters are different solvers.

    Raises:
        PolicyError: the pool has no ScEnsemble, or nothing that gives it several answers.
    """
    setting.need("self_consistency", "ScEnsemble")
    several = "MultiAnswerGenerate" in setting.offered
    tools = setting.kind == "think_act"
    voters = [n for n in _SOLVERS if n in setting.offered and not (tools and n == "Programmer")]
    if not several and len(voters) < 2:
        raise PolicyError(
            "policy 'self_consistency' needs MultiAnswerGenerate or two of "
            f"{', '.join(_SOLVERS)}; environment.pool={list(setting.offered)}"
        )
    script: Script
    if tools:
        names = ["MultiAnswerGenerate"] if several else voters
        script = tuple(ToolCall(name) for name in (*names, "ScEnsemble"))
    elif several:
        script = (AddOperator("MultiAnswerGenerate"), AddOperator("ScEnsemble"))
    else:
        script = (AddParallel(tuple(voters)), AddOperator("ScEnsemble"))
    return policies(setting, script)
