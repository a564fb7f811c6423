"""Write a workflow in its notation; `dsl.parse` reads it.

    workflow    := [sequence] [";" "next" NUMBER]
    sequence    := item ("->" item)*
    item        := [ID] (operator "?" arm [":" arm] | structure | operator | "(" sequence ")")
    structure   := "[" sequence ("," sequence)+ "]"
                 | "(" sequence ")" "*" NUMBER ["until" operator]
    arm         := "done" | [ID] structure | operator | "(" sequence ")"
    operator    := NAME [ID] ["(" NODE ("," NODE)* ")"] ["{" JSON-STRING "}"]
    ID          := "@" NODE

An id before a structure is the structure's own, one behind a name the operator's. Ids are left out
where the reader would give the same ones: 1, 2, 3 … in document order. The papers' notation is the
part without ids, inputs and prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from wfr.workflow.nodes import Block, Conditional, Loop, Node, OperatorNode, Parallel, walk

DONE = "done"
UNTIL = "until"


def exact(block: Block, next_id: int) -> str:
    """The notation from which `parse` makes the same workflow: ids, inputs, prompts, counter."""
    ids = [node.id for node in walk(block)]
    canonical = ids == [f"node_{number}" for number in range(1, len(ids) + 1)]
    following = max((int(i.removeprefix("node_")) for i in ids), default=0) + 1
    text = _sequence(block, lambda node: "" if canonical else f"@{node.id}", _full)
    counter = f"; next {next_id}" if next_id != following else ""
    return f"{text}{counter}".strip()


def outline(block: Block) -> str:
    """The papers' notation: structure and operators alone."""
    return _sequence(block, lambda node: "", lambda node: "")


def _full(node: OperatorNode) -> str:
    inputs = f"({', '.join(node.inputs)})" if node.inputs else ""
    prompt = f"{{{json.dumps(node.prompt, ensure_ascii=False)}}}" if node.prompt else ""
    return inputs + prompt


_Id = Callable[[Node], str]
_Detail = Callable[[OperatorNode], str]


def _sequence(block: Block, id_of: _Id, detail: _Detail) -> str:
    return " -> ".join(_node(node, id_of, detail) for node in block)


def _node(node: Node, id_of: _Id, detail: _Detail) -> str:
    if isinstance(node, OperatorNode):
        return f"{node.operator}{id_of(node)}{detail(node)}"
    prefix = id_of(node)
    text = _structure(node, id_of, detail)
    return f"{prefix} {text}" if prefix else text


def _structure(node: Parallel | Conditional | Loop, id_of: _Id, detail: _Detail) -> str:
    match node:
        case Parallel():
            branches = (_sequence(branch, id_of, detail) for branch in node.branches)
            return f"[{', '.join(branches)}]"
        case Conditional():
            condition = _node(node.condition, id_of, detail)
            arms = (_arm(arm, id_of, detail) for arm in (node.on_true, node.on_false))
            return f"{condition} ? {' : '.join(arms)}"
        case Loop():
            text = f"({_sequence(node.body, id_of, detail)}) * {node.count}"
            if node.until is None:
                return text
            return f"{text} {UNTIL} {_node(node.until, id_of, detail)}"


def _arm(arm: Block, id_of: _Id, detail: _Detail) -> str:
    if not arm:
        return DONE
    text = _sequence(arm, id_of, detail)
    return f"({text})" if len(arm) > 1 or isinstance(arm[0], Conditional) else text
