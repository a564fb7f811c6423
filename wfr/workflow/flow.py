"""What flows where: the edges of a workflow, and in which order its parts can run.

A node reads what flows into its place, or the nodes that it names as inputs. A structure that is
named stands for its outputs. The condition of a conditional passes on what it checked, so an arm
reads the condition, and so does whatever follows an empty arm; an exit condition likewise. An
iteration of a loop reads the one before it: repetition, not an edge.
"""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Iterator, Mapping

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.nodes import (
    Block,
    Conditional,
    Loop,
    Node,
    OperatorNode,
    Parallel,
    operators,
    parts,
    walk,
)

ROOT = ""

Order = tuple[frozenset[int], ...]
"""For each part of a container, the parts that have to run before it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """The derived graph.

    Attributes:
        edges: pairs (source, reader) of operator ids, in document order of the readers.
        outputs: operator ids whose values leave the workflow.
        order: by container: `""` is the root sequence, `block_key` names the others.
    """

    edges: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]
    order: Mapping[str, Order]


def block_key(structure: str, part: int) -> str:
    """Container name of the sequence that is part number `part` of a structure."""
    return f"{structure}/{part}"


def derive(block: Block) -> Flow:
    """The flow of a workflow whose ids are unique.

    Raises:
        WorkflowError: an input that is unknown, a self-reference, or a cycle.
    """
    by_id = {node.id: node for node in walk(block)}
    paths = dict(_paths(block, ROOT, ()))
    order = dict(_default_order(block, ROOT))
    for node in operators(block):
        for source in node.inputs:
            _add_input(node, source, by_id, paths, order)
    for container, before in order.items():
        _check_acyclic(container, before)
    edges: dict[tuple[str, str], None] = {}
    outputs = _connect(block, (), edges, by_id)
    return Flow(tuple(edges), outputs, {key: tuple(map(frozenset, b)) for key, b in order.items()})


def outputs_of(node: Node) -> tuple[str, ...]:
    """Ids of the operators whose values leave a node."""
    match node:
        case OperatorNode():
            return (node.id,)
        case Parallel():
            return tuple(i for branch in node.branches for i in outputs_of(branch[-1]))
        case Conditional():
            arms = (node.on_true, node.on_false)
            ids = (outputs_of(arm[-1]) if arm else (node.condition.id,) for arm in arms)
            return tuple(dict.fromkeys(i for arm in ids for i in arm))
        case Loop():
            return (node.until.id,) if node.until else outputs_of(node.body[-1])


def ancestors(outputs: tuple[str, ...], edges: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """The given operators and all from which one of them can be reached."""
    sources: dict[str, list[str]] = {}
    for source, reader in edges:
        sources.setdefault(reader, []).append(source)
    found, waiting = set(outputs), list(outputs)
    while waiting:
        new = [s for s in sources.get(waiting.pop(), ()) if s not in found]
        found.update(new)
        waiting.extend(new)
    return frozenset(found)


_Path = tuple[tuple[str, int], ...]


def _paths(block: Block, container: str, above: _Path) -> Iterator[tuple[str, _Path]]:
    """Of every node, the (container, part) pairs that lead to it from the root."""
    for index, node in enumerate(block):
        path = (*above, (container, index))
        yield node.id, path
        for number, part in enumerate(parts(node)):
            inner = block_key(node.id, number)
            yield from _paths(part, inner, (*path, (node.id, number)))


def _default_order(block: Block, container: str) -> Iterator[tuple[str, list[set[int]]]]:
    yield (
        container,
        [{i - 1} if i and _reads_place(node) else set() for i, node in enumerate(block)],
    )
    for node in block:
        match node:
            case Parallel():
                yield node.id, [set() for _ in node.branches]
            case Conditional():
                yield node.id, [set(), {0}, {0}]
            case Loop():
                yield node.id, [set(), {0}]
            case OperatorNode():
                continue
        for number, part in enumerate(parts(node)):
            yield from _default_order(part, block_key(node.id, number))


def _reads_place(node: Node) -> bool:
    match node:
        case OperatorNode():
            return not node.inputs
        case Parallel():
            return any(_reads_place(branch[0]) for branch in node.branches)
        case Conditional():
            return _reads_place(node.condition)
        case Loop():
            return _reads_place(node.body[0])


def _add_input(
    node: OperatorNode,
    source: str,
    by_id: Mapping[str, Node],
    paths: Mapping[str, _Path],
    order: Mapping[str, list[set[int]]],
) -> None:
    if source not in by_id:
        raise WorkflowError(Code.UNKNOWN_INPUT, f"{node.id} reads {source}, which does not exist")
    ours, theirs = paths[node.id], paths[source]
    for (container, part), (_, other) in zip(ours, theirs, strict=False):
        if part == other:
            continue
        if isinstance(by_id.get(container), Conditional) and 0 not in (part, other):
            raise WorkflowError(
                Code.UNKNOWN_INPUT, f"{node.id} reads {source}, which is in the other arm"
            )
        order[container][part].add(other)
        return
    raise WorkflowError(
        Code.SELF_REFERENCE, f"{node.id} reads {source}, which is itself or holds it"
    )


def _check_acyclic(container: str, before: list[set[int]]) -> None:
    try:
        graphlib.TopologicalSorter(dict(enumerate(before))).prepare()
    except graphlib.CycleError:
        where = container.partition("/")[0] or "the workflow"
        raise WorkflowError(
            Code.CYCLE, f"the inputs inside {where} form a cycle: a node would wait for itself"
        ) from None


_Sources = tuple[str, ...]
_Edges = dict[tuple[str, str], None]


def _connect(
    block: Block, sources: _Sources, edges: _Edges, by_id: Mapping[str, Node]
) -> tuple[str, ...]:
    for node in block:
        match node:
            case OperatorNode():
                named = (i for name in node.inputs for i in outputs_of(by_id[name]))
                edges.update({(source, node.id): None for source in (*named,) or sources})
                sources = (node.id,)
            case Parallel():
                ends = [_connect(branch, sources, edges, by_id) for branch in node.branches]
                sources = tuple(i for branch in ends for i in branch)
            case Conditional():
                checked = _connect((node.condition,), sources, edges, by_id)
                for arm in (node.on_true, node.on_false):
                    _connect(arm, checked, edges, by_id)
                    edges.update({(checked[0], i): None for i in _entries(arm)})
                sources = outputs_of(node)
            case Loop():
                sources = _connect(node.body, sources, edges, by_id)
                if node.until:
                    sources = _connect((node.until,), sources, edges, by_id)
    return sources


def _entries(block: Block) -> Iterator[str]:
    """The operators that a block begins with."""
    if not block:
        return
    match first := block[0]:
        case OperatorNode():
            yield first.id
        case Parallel():
            for branch in first.branches:
                yield from _entries(branch)
        case Conditional():
            yield first.condition.id
        case Loop():
            yield from _entries(first.body)
