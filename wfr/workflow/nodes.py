"""What a workflow is made of: operators, and three structures that nest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

OPERATOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
NODE_ID = re.compile(r"node_([1-9][0-9]{0,8})")


@dataclasses.dataclass(frozen=True, slots=True)
class OperatorNode:
    """One operator.

    Attributes:
        prompt: what the director tells this operator; may be empty.
        inputs: ids of the nodes whose outputs it reads instead of what flows into its place.
    """

    id: str
    operator: str
    prompt: str = ""
    inputs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Parallel:
    """Branches that all receive what flows in; their outputs flow on together."""

    id: str
    branches: tuple[Block, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Conditional:
    """A check, and what follows where it passed or did not; an empty arm is `done`."""

    id: str
    condition: OperatorNode
    on_true: Block
    on_false: Block = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Loop:
    """A block that is repeated at most `count` times, or until a check passes."""

    id: str
    body: Block
    count: int
    until: OperatorNode | None = None


Node: TypeAlias = OperatorNode | Parallel | Conditional | Loop
Block: TypeAlias = tuple[Node, ...]
"""A sequence of nodes: each receives the output of the one before it."""


def parts(node: Node) -> tuple[Block, ...]:
    """The blocks that a structure holds, in document order; a lone operator is a block of one."""
    match node:
        case Parallel():
            return node.branches
        case Conditional():
            return ((node.condition,), node.on_true, node.on_false)
        case Loop():
            return (node.body, (node.until,) if node.until else ())
        case OperatorNode():
            return ()


def walk(block: Block) -> Iterator[Node]:
    """Every node in document order, structures before what they hold."""
    for node in block:
        yield node
        for part in parts(node):
            yield from walk(part)


def operators(block: Block) -> Iterator[OperatorNode]:
    """Every operator node in document order."""
    return (node for node in walk(block) if isinstance(node, OperatorNode))


def depth(block: Block) -> int:
    """Structures around the deepest operator: 0 where there is none."""
    return max((1 + max(map(depth, parts(n))) for n in block if parts(n)), default=0)


def map_nodes(block: Block, change: Callable[[Node], Node]) -> Block:
    """The block with every node replaced by `change(node)`, what a structure holds first."""

    def of_block(nodes: Block) -> Block:
        return tuple(change(node) for node in nodes)

    return map_blocks(block, of_block, lambda node: _operator(change(node)))


def map_blocks(
    block: Block,
    change: Callable[[Block], Block],
    check: Callable[[OperatorNode], OperatorNode] = lambda node: node,
) -> Block:
    """The block with every sequence replaced by `change(sequence)`, inner ones first.

    Conditions stand in no sequence: they become `check(condition)`.
    """
    return change(tuple(_inside(node, change, check) for node in block))


def _inside(
    node: Node,
    change: Callable[[Block], Block],
    check: Callable[[OperatorNode], OperatorNode],
) -> Node:
    match node:
        case Parallel():
            branches = tuple(map_blocks(branch, change, check) for branch in node.branches)
            return dataclasses.replace(node, branches=branches)
        case Conditional():
            arms = (map_blocks(arm, change, check) for arm in (node.on_true, node.on_false))
            return Conditional(node.id, check(node.condition), *arms)
        case Loop():
            until = check(node.until) if node.until else None
            body = map_blocks(node.body, change, check)
            return dataclasses.replace(node, body=body, until=until)
        case OperatorNode():
            return node


def _operator(node: Node) -> OperatorNode:
    assert isinstance(node, OperatorNode), node
    return node
