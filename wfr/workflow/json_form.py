"""Workflows as plain JSON data: one dictionary per node, told apart by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.nodes import Block, Conditional, Loop, Node, OperatorNode, Parallel

_MAX_NESTING = 64  # what a reader follows; how deep a director may build is a rule's business


def write(block: Block) -> list[dict[str, Any]]:
    """The nodes of a block."""
    return [_write(node) for node in block]


def read(data: object, nesting: int = 0) -> Block:
    """The block that `write` wrote; raises WorkflowError for anything else."""
    if not isinstance(data, list):
        raise WorkflowError(Code.SYNTAX, f"expected a list of nodes, found {_kind(data)}")
    if nesting > _MAX_NESTING:
        raise WorkflowError(Code.TOO_DEEP, f"nodes are nested over {_MAX_NESTING} deep")
    return tuple(_read(item, nesting + 1) for item in data)


def _write(node: Node) -> dict[str, Any]:
    match node:
        case OperatorNode():
            data: dict[str, Any] = {"id": node.id, "operator": node.operator}
            if node.prompt:
                data["prompt"] = node.prompt
            if node.inputs:
                data["inputs"] = list(node.inputs)
            return data
        case Parallel():
            return {"id": node.id, "parallel": [write(branch) for branch in node.branches]}
        case Conditional():
            arms = {"true": write(node.on_true), "false": write(node.on_false)}
            return {"id": node.id, "if": _write(node.condition), **arms}
        case Loop():
            data = {"id": node.id, "loop": write(node.body), "count": node.count}
            return {**data, "until": _write(node.until)} if node.until else data


def _read(data: object, nesting: int) -> Node:
    if not isinstance(data, Mapping):
        raise WorkflowError(Code.SYNTAX, f"expected a node, found {_kind(data)}")
    match set(data):
        case keys if {"id", "operator"} <= keys <= {"id", "operator", "prompt", "inputs"}:
            return _read_operator(data)
        case keys if keys == {"id", "parallel"}:
            if not isinstance(data["parallel"], list):
                raise WorkflowError(Code.SYNTAX, "parallel is not a list of branches")
            branches = tuple(read(branch, nesting) for branch in data["parallel"])
            return Parallel(_text(data, "id"), branches)
        case keys if keys == {"id", "if", "true", "false"}:
            arms = read(data["true"], nesting), read(data["false"], nesting)
            return Conditional(_text(data, "id"), _operator(data["if"], nesting), *arms)
        case keys if {"id", "loop", "count"} <= keys <= {"id", "loop", "count", "until"}:
            until = _operator(data["until"], nesting) if "until" in data else None
            body = read(data["loop"], nesting)
            return Loop(_text(data, "id"), body, _number(data, "count"), until)
    found = ", ".join(sorted(str(key)[:20] for key in list(data)[:8]))
    raise WorkflowError(Code.SYNTAX, f"no node has exactly the keys {found or '(none)'}")


def _read_operator(data: Mapping[str, Any]) -> OperatorNode:
    inputs = data.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(item, str) for item in inputs):
        raise WorkflowError(Code.SYNTAX, "inputs is not a list of ids")
    prompt = _text(data, "prompt") if "prompt" in data else ""
    return OperatorNode(_text(data, "id"), _text(data, "operator"), prompt, tuple(inputs))


def _operator(data: object, nesting: int) -> OperatorNode:
    node = _read(data, nesting)
    if not isinstance(node, OperatorNode):
        raise WorkflowError(Code.SYNTAX, f"{node.id[:40]!r} stands where an operator must")
    return node


def _text(data: Mapping[str, Any], key: str) -> str:
    if not isinstance(data[key], str):
        raise WorkflowError(Code.SYNTAX, f"{key} is {_kind(data[key])}, expected a text")
    return str(data[key])


def _number(data: Mapping[str, Any], key: str) -> int:
    if not isinstance(data[key], int) or isinstance(data[key], bool):
        raise WorkflowError(Code.BAD_COUNT, f"{key} is {_kind(data[key])}, expected a number")
    return int(data[key])


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
