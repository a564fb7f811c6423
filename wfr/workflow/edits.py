"""The edits of a canvas: the eight actions of FlowSteer (arXiv 2602.01664), applied to a workflow.

An edit gives a new workflow or a reason; it never changes one, and never raises. Deleting follows
one rule: a structure that is left without what it needs goes too, and what remains of it takes its
place; so a workflow is whole after every edit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import (
    Block,
    Conditional,
    Loop,
    Node,
    OperatorNode,
    Parallel,
    map_blocks,
    map_nodes,
    walk,
)
from wfr.workflow.rules import Problem, Rules, check, unreachable


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a new node goes; to the end, unless something is said.

    Attributes:
        position: before this top-level node, from 0.
        target: right after this node, in whatever sequence it stands.
    """

    position: int | None = None
    target: str = ""


END = Place()


@dataclasses.dataclass(frozen=True, slots=True)
class AddOperator:
    """Add one operator; `inputs` are the nodes that it reads instead of the one before it."""

    action: ClassVar[str] = "add"
    operator: str
    prompt: str = ""
    inputs: tuple[str, ...] = ()
    place: Place = END


@dataclasses.dataclass(frozen=True, slots=True)
class AddParallel:
    """Add branches of one operator each; prompts go to the operators in their order."""

    action: ClassVar[str] = "parallel"
    operators: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    place: Place = END


@dataclasses.dataclass(frozen=True, slots=True)
class AddConditional:
    """Add a check with an operator in one arm or both; an empty arm is `done`."""

    action: ClassVar[str] = "conditional"
    condition: str
    on_true: str
    on_false: str = ""
    prompts: tuple[str, ...] = ()
    place: Place = END


@dataclasses.dataclass(frozen=True, slots=True)
class AddLoop:
    """Add a sequence that is repeated `count` times, or until the check `until` passes."""

    action: ClassVar[str] = "loop"
    operators: tuple[str, ...]
    count: int = 3
    until: str = ""
    prompts: tuple[str, ...] = ()
    place: Place = END


@dataclasses.dataclass(frozen=True, slots=True)
class Delete:
    """Delete a node, with all that it holds, wherever it stands."""

    action: ClassVar[str] = "delete"
    target: str


@dataclasses.dataclass(frozen=True, slots=True)
class Modify:
    """Put another operator in a node's place; the old prompt goes, inputs stay unless given."""

    action: ClassVar[str] = "modify"
    target: str
    operator: str
    prompt: str = ""
    inputs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class SetPrompt:
    """Give an operator another prompt."""

    action: ClassVar[str] = "set_prompt"
    target: str
    prompt: str


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """End the episode; whether that is accepted is not the workflow's business."""

    action: ClassVar[str] = "finish"
    answer: str = ""


AddStructure: TypeAlias = AddParallel | AddConditional | AddLoop
Edit: TypeAlias = AddOperator | AddStructure | Delete | Modify | SetPrompt | Finish
ACTIONS = tuple(
    kind.action
    for kind in (
        *(AddOperator, AddParallel, AddConditional, AddLoop),
        *(Delete, Modify, SetPrompt, Finish),
    )
)


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """An edit that took effect.

    Attributes:
        nodes: ids of what was added or changed, structures before what they hold.
        notes: what is odd about the new workflow without being forbidden.
    """

    workflow: Workflow
    nodes: tuple[str, ...]
    message: str
    notes: tuple[Problem, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A turn without effect: why, and what to do instead."""

    code: Code
    message: str
    hint: str = ""


def apply(workflow: Workflow, edit: Edit, rules: Rules) -> Applied | Refused:
    """The workflow after an edit, or the reason why there is none."""
    unknown = next((n for n in _named_operators(edit) if n not in rules.operators), None)
    if unknown is not None:
        message = f"there is no operator {unknown[:40]!r}"
        return Refused(Code.UNKNOWN_OPERATOR, message, f"operators: {', '.join(rules.operators)}")
    try:
        changed, nodes, message = _change(workflow, edit)
    except _RefusedError as error:
        return error.refused
    except WorkflowError as error:
        return Refused(error.code, error.message, _HINTS.get(error.code, ""))
    problems = check(changed, rules)
    if problems:
        first = problems[0]
        return Refused(first.code, first.message, first.hint)
    return Applied(changed, nodes, message, unreachable(changed))


_HINTS = {
    Code.UNKNOWN_INPUT: "<inputs> names nodes of the workflow, as far as they can have run",
    Code.SELF_REFERENCE: "let it read a node before it",
    Code.CYCLE: "let it read nodes that do not wait for it; a structure runs as a whole",
    Code.TOO_FEW_OPERATORS: "name the operators that the structure needs",
    Code.BAD_COUNT: "choose a count of at least 1",
}


def _named_operators(edit: Edit) -> tuple[str, ...]:
    match edit:
        case AddOperator() | Modify():
            return (edit.operator,)
        case AddParallel():
            return edit.operators
        case AddConditional():
            arms = tuple(filter(None, (edit.on_true, edit.on_false)))
            return (edit.condition, *arms)
        case AddLoop():
            return (*edit.operators, edit.until) if edit.until else edit.operators
        case Delete() | SetPrompt() | Finish():
            return ()


class _RefusedError(Exception):
    """Carries a refusal out of a helper."""

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.refused = Refused(code, message, hint)


_Change = tuple[Workflow, tuple[str, ...], str]


def _change(workflow: Workflow, edit: Edit) -> _Change:
    match edit:
        case AddOperator() | AddParallel() | AddConditional() | AddLoop():
            return _add(workflow, edit)
        case Delete():
            return _delete(workflow, edit.target)
        case Modify():
            return _modify(workflow, edit)
        case SetPrompt():
            return _set_prompt(workflow, edit)
        case Finish():
            return workflow, (), "finish"


def _add(workflow: Workflow, edit: AddOperator | AddStructure) -> _Change:
    ids = _Ids(workflow.next_id)
    node = _new_node(edit, ids)
    nodes = _insert(workflow, node, edit.place)
    added = tuple(each.id for each in walk((node,)))
    what = edit.operator if isinstance(edit, AddOperator) else f"{edit.action} structure"
    return Workflow(nodes, ids.following), added, f"added {what} as {node.id}"


class _Ids:
    """Ids that no node of the workflow has or had."""

    def __init__(self, following: int) -> None:
        self.following = following

    def new(self) -> str:
        self.following += 1
        return f"node_{self.following - 1}"


def _new_node(edit: AddOperator | AddStructure, ids: _Ids) -> Node:
    match edit:
        case AddOperator():
            return OperatorNode(ids.new(), edit.operator, edit.prompt, edit.inputs)
        case AddParallel():
            if len(edit.operators) < 2:
                raise _RefusedError(
                    Code.TOO_FEW_OPERATORS,
                    "a parallel structure needs at least 2 operators",
                    "<operators>A,B</operators>",
                )
            return _parallel(edit, ids)
        case AddConditional():
            return _conditional(edit, ids)
        case AddLoop():
            return _loop(edit, ids)


def _parallel(edit: AddParallel, ids: _Ids) -> Node:
    structure = ids.new()
    return Parallel(structure, tuple((n,) for n in _fill(edit.operators, edit.prompts, ids)))


def _conditional(edit: AddConditional, ids: _Ids) -> Node:
    structure = ids.new()
    names = [edit.condition, *filter(None, (edit.on_true, edit.on_false))]
    condition, *arms = _fill(names, edit.prompts, ids)
    on_true: Block = (arms.pop(0),) if edit.on_true else ()
    return Conditional(structure, condition, on_true, tuple(arms))


def _loop(edit: AddLoop, ids: _Ids) -> Node:
    structure = ids.new()
    names = [*edit.operators, *filter(None, (edit.until,))]
    nodes = _fill(names, edit.prompts, ids)
    until = nodes.pop() if edit.until else None
    return Loop(structure, tuple(nodes), edit.count, until)


def _fill(names: Sequence[str], prompts: Sequence[str], ids: _Ids) -> list[OperatorNode]:
    """Operator nodes in order; operators beyond the last prompt get none."""
    if len(prompts) > len(names):
        raise _RefusedError(
            Code.TOO_MANY_PROMPTS,
            f"there are {len(prompts)} prompts for {len(names)} operators",
            "give one prompt per operator, in their order",
        )
    padded = [*prompts, *[""] * (len(names) - len(prompts))]
    return [
        OperatorNode(ids.new(), name, prompt) for name, prompt in zip(names, padded, strict=True)
    ]


def _insert(workflow: Workflow, node: Node, place: Place) -> Block:
    nodes = workflow.nodes
    if place.target:
        return _insert_after(workflow, node, place.target)
    position = len(nodes) if place.position is None else place.position
    if not 0 <= position <= len(nodes):
        raise _RefusedError(
            Code.BAD_POSITION,
            f"position {position} is outside the workflow",
            f"positions: 0 (first) to {len(nodes)} (last)",
        )
    return (*nodes[:position], node, *nodes[position:])


def _insert_after(workflow: Workflow, node: Node, target: str) -> Block:
    _existing(workflow, target)

    def insert(block: Block) -> Block:
        for index, each in enumerate(block, 1):
            if each.id == target:
                return (*block[:index], node, *block[index:])
        return block

    nodes = map_blocks(workflow.nodes, insert)
    if nodes == workflow.nodes:
        raise _RefusedError(
            Code.BAD_POSITION,
            f"{target} is a condition: nothing can stand after it",
            "target the structure, or a node in one of its arms",
        )
    return nodes


def _delete(workflow: Workflow, target: str) -> _Change:
    _existing(workflow, target)
    for node in walk(workflow.nodes):
        if isinstance(node, Conditional) and node.condition.id == target:
            raise _RefusedError(
                Code.TOO_FEW_OPERATORS,
                f"{target} is the condition of {node.id}",
                f"modify {target}, or delete {node.id}",
            )
    nodes = map_blocks(workflow.nodes, lambda block: _without(block, target))
    left = {node.id for node in walk(nodes)}
    gone = tuple(node.id for node in walk(workflow.nodes) if node.id not in left)
    nodes = map_nodes(nodes, lambda node: _known_inputs(node, left))
    return Workflow(nodes, workflow.next_id), (), f"deleted {', '.join(gone)}"


def _without(block: Block, target: str) -> Block:
    kept = (node for node in block if node.id != target)
    return tuple(each for node in kept for each in _whole(node, target))


def _whole(node: Node, target: str) -> Block:
    """What remains in the place of a structure that may have lost a part."""
    match node:
        case Parallel():
            branches = tuple(filter(None, node.branches))
            if len(branches) < 2:
                return branches[0] if branches else ()
            return (dataclasses.replace(node, branches=branches),)
        case Conditional() if not (node.on_true or node.on_false):
            return (node.condition,)
        case Loop() if not node.body:
            return ()
        case Loop(until=OperatorNode(id=until)) if until == target:
            return (dataclasses.replace(node, until=None),)
        case _:
            return (node,)


def _known_inputs(node: Node, known: set[str]) -> Node:
    if not isinstance(node, OperatorNode) or known.issuperset(node.inputs):
        return node
    return dataclasses.replace(node, inputs=tuple(i for i in node.inputs if i in known))


def _modify(workflow: Workflow, edit: Modify) -> _Change:
    def change(node: OperatorNode) -> OperatorNode:
        return OperatorNode(node.id, edit.operator, edit.prompt, edit.inputs or node.inputs)

    changed = _change_operator(workflow, edit.target, change)
    return changed, (edit.target,), f"{edit.target} is now {edit.operator}"


def _set_prompt(workflow: Workflow, edit: SetPrompt) -> _Change:
    if not edit.prompt.strip():
        raise _RefusedError(
            Code.PROMPT_TOO_SHORT, "the prompt is blank", "say what the operator should do"
        )
    changed = _change_operator(
        workflow, edit.target, lambda node: dataclasses.replace(node, prompt=edit.prompt)
    )
    return changed, (edit.target,), f"{edit.target} has a new prompt"


def _change_operator(
    workflow: Workflow, target: str, change: Callable[[OperatorNode], OperatorNode]
) -> Workflow:
    node = _existing(workflow, target)
    if not isinstance(node, OperatorNode):
        inside = [each.id for each in walk((node,)) if isinstance(each, OperatorNode)]
        raise _RefusedError(
            Code.UNKNOWN_NODE, f"{target} is no operator", f"its operators: {', '.join(inside)}"
        )
    replacement = change(node)
    nodes = map_nodes(workflow.nodes, lambda each: replacement if each is node else each)
    return Workflow(nodes, workflow.next_id)


def _existing(workflow: Workflow, target: str) -> Node:
    node = workflow.find(target)
    if node is None:
        ids = [each.id for each in walk(workflow.nodes)]
        raise _RefusedError(
            Code.UNKNOWN_NODE,
            f"there is no node {target[:40]!r}",
            f"nodes: {', '.join(ids) or 'none yet'}",
        )
    return node
