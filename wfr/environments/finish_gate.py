"""What a workflow must have before it may be finished."""

from __future__ import annotations

from collections.abc import Mapping

from wfr.canvas_config import FinishGateConfig
from wfr.operators.base import OperatorSpec
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import OperatorNode, walk


def missing(
    workflow: Workflow,
    specs: Mapping[str, OperatorSpec],
    gate: FinishGateConfig,
    *,
    has_tests: bool,
    result: str,
) -> str:
    """What is missing, in words; empty where `finish` is accepted.

    `has_tests` says that the task has public tests; `result` is the workflow's output.
    """
    names = {node.operator for node in workflow.operators}
    categories = {specs[name].category for name in names if name in specs}
    if workflow.size < gate.min_operators:
        return f"{workflow.size} of at least {gate.min_operators} operators"
    if gate.structure and all(isinstance(node, OperatorNode) for node in walk(workflow.nodes)):
        return "a parallel, conditional or loop structure"
    if gate.checker and not {"solving", "verification"} <= categories:
        return "a solver and an operator that checks it"
    if gate.code_test and has_tests and "Test" in specs and "Test" not in names:
        return "a Test, because this task has public tests"
    if "formatting" not in categories and not _concise(result, gate):
        return "a Format, because the result is long"
    return ""


def _concise(result: str, gate: FinishGateConfig) -> bool:
    most = gate.concise_chars
    return most is None or (len(result) <= most and "\n" not in result.strip())
