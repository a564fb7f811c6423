"""Pictures of a workflow for people: Mermaid and Graphviz."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wfr.workflow.nodes import Block, Conditional, Loop, Node, OperatorNode, Parallel, parts

Edges = tuple[tuple[str, str], ...]


def mermaid(block: Block, edges: Edges) -> str:
    """A Mermaid flowchart: structures are subgraphs."""
    lines = ["flowchart TD", *_lines(block, _mermaid_operator, _mermaid_open, "end", "    ")]
    return "\n".join([*lines, *(f"    {source} --> {reader}" for source, reader in edges)])


def dot(block: Block, edges: Edges) -> str:
    """A Graphviz digraph: structures are clusters."""
    lines = ["digraph workflow {", *_lines(block, _dot_operator, _dot_open, "}", "    ")]
    return "\n".join([*lines, *(f"    {source} -> {reader};" for source, reader in edges), "}"])


def _lines(
    block: Block,
    operator: Callable[[OperatorNode], str],
    opening: Callable[[Node, str], str],
    closing: str,
    indent: str,
) -> Iterator[str]:
    for node in block:
        if isinstance(node, OperatorNode):
            yield indent + operator(node)
            continue
        yield indent + opening(node, _title(node))
        for part in parts(node):
            yield from _lines(part, operator, opening, closing, indent + "    ")
        yield indent + closing


def _title(node: Node) -> str:
    match node:
        case Parallel():
            return "parallel"
        case Conditional():
            arms = ("true", node.on_true), ("false", node.on_false)
            ways = (f"{name}: {arm[0].id if arm else 'done'}" for name, arm in arms)
            return f"if {node.condition.id} · {' · '.join(ways)}"
        case Loop():
            return f"at most {node.count} ×" + (f" until {node.until.id}" if node.until else "")
        case OperatorNode():
            return node.operator


def _mermaid_operator(node: OperatorNode) -> str:
    return f'{node.id}["{node.operator} · {node.id}"]'


def _mermaid_open(node: Node, title: str) -> str:
    return f'subgraph {node.id}["{title}"]'


def _dot_operator(node: OperatorNode) -> str:
    return f'{node.id} [label="{node.operator} · {node.id}" shape=box];'


def _dot_open(node: Node, title: str) -> str:
    return f'subgraph cluster_{node.id} {{ label="{title}";'
