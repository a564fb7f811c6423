"""The workflow: an immutable graph, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from wfr.workflow import diagrams, json_form, notation
from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.flow import Flow, ancestors, derive
from wfr.workflow.nodes import (
    NODE_ID,
    OPERATOR_NAME,
    Block,
    Conditional,
    Loop,
    Node,
    OperatorNode,
    Parallel,
    depth,
    operators,
    walk,
)

_LAST_ID = 999_999_999  # what NODE_ID has digits for


@dataclasses.dataclass(frozen=True)
class Workflow:
    """A directed acyclic graph of operators, written as a sequence of nested structures.

    Ids are `node_N`. `next_id` is carried along, so that an id never comes back after its node
    has been deleted.

    >>> from wfr.workflow.dsl import parse
    >>> parse("Plan -> [Custom, Programmer] -> Aggregate").edges()[:2]
    (('node_1', 'node_3'), ('node_1', 'node_4'))

    Raises:
        WorkflowError: the parts contradict each other.
    """

    nodes: Block = ()
    next_id: int = 1

    def __post_init__(self) -> None:
        """Check ids, shapes, inputs and cycles."""
        if not 1 <= self.next_id <= _LAST_ID:
            raise WorkflowError(Code.BAD_ID, f"next_id {self.next_id} is not in 1 to {_LAST_ID}")
        seen: set[str] = set()
        for node in walk(self.nodes):
            _check_id(node, seen, self.next_id)
            _check_shape(node)
        object.__setattr__(self, "flow", derive(self.nodes))

    flow: Flow = dataclasses.field(init=False, compare=False, repr=False)
    """Edges and order; they follow from the nodes."""

    @cached_property
    def operators(self) -> tuple[OperatorNode, ...]:
        """Every operator node in document order."""
        return tuple(operators(self.nodes))

    @property
    def size(self) -> int:
        """Count of operator nodes."""
        return len(self.operators)

    @property
    def depth(self) -> int:
        """Structures around the deepest operator."""
        return depth(self.nodes)

    def find(self, node_id: str) -> Node | None:
        """The node of that id, wherever it stands."""
        return next((node for node in walk(self.nodes) if node.id == node_id), None)

    def edges(self) -> tuple[tuple[str, str], ...]:
        """Pairs (source, reader) of operator ids; repetition by a loop is no edge."""
        return self.flow.edges

    def on_output_path(self) -> frozenset[str]:
        """Ids of the operators from which the output can be reached."""
        return ancestors(self.flow.outputs, self.flow.edges)

    def to_dsl(self) -> str:
        """The exact notation: `parse` gives an equal workflow back."""
        return notation.exact(self.nodes, self.next_id)

    def outline(self) -> str:
        """The papers' notation: without ids, inputs and prompts."""
        return notation.outline(self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dictionaries, strings and numbers."""
        return {"nodes": json_form.write(self.nodes), "next_id": self.next_id}

    @classmethod
    def from_json(cls, data: object) -> Workflow:
        """Read what `to_json` wrote; raises WorkflowError for anything else."""
        if not isinstance(data, Mapping) or set(data) != {"nodes", "next_id"}:
            raise WorkflowError(Code.SYNTAX, "a workflow has exactly the keys nodes and next_id")
        if not isinstance(data["next_id"], int) or isinstance(data["next_id"], bool):
            raise WorkflowError(Code.BAD_ID, f"next_id={data['next_id']!r} is not a number")
        return cls(json_form.read(data["nodes"]), data["next_id"])

    def to_mermaid(self) -> str:
        """A Mermaid flowchart."""
        return diagrams.mermaid(self.nodes, self.flow.edges)

    def to_dot(self) -> str:
        """A Graphviz digraph."""
        return diagrams.dot(self.nodes, self.flow.edges)


def _check_id(node: Node, seen: set[str], next_id: int) -> None:
    match = NODE_ID.fullmatch(node.id)
    if not match or node.id in seen or int(match[1]) >= next_id:
        raise WorkflowError(
            Code.BAD_ID, f"id {node.id[:40]!r} is malformed, used twice, or not below {next_id}"
        )
    seen.add(node.id)


def _check_shape(node: Node) -> None:
    match node:
        case OperatorNode() if not OPERATOR_NAME.fullmatch(node.operator):
            message = f"{node.operator[:40]!r} is not the name of an operator"
            raise WorkflowError(Code.SYNTAX, message)
        case OperatorNode() if node.operator in (notation.DONE, notation.UNTIL):
            raise WorkflowError(Code.SYNTAX, f"{node.operator!r} is a word of the notation")
        case Parallel() if len(node.branches) < 2 or not all(node.branches):
            raise WorkflowError(
                Code.TOO_FEW_OPERATORS, "a parallel structure needs 2 branches with operators"
            )
        case Conditional() if not (node.on_true or node.on_false):
            raise WorkflowError(Code.TOO_FEW_OPERATORS, "a conditional needs an arm with operators")
        case Loop() if not node.body:
            raise WorkflowError(Code.TOO_FEW_OPERATORS, "a loop needs an operator")
        case Loop() if node.count < 1:
            raise WorkflowError(Code.BAD_COUNT, f"a loop cannot run {node.count} times")
