"""Construction: the edits that build a given workflow, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfr.workflow.codes import Code, WorkflowError
from wfr.workflow.edits import (
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Applied,
    Edit,
    Place,
    apply,
)
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import Block, Conditional, Loop, Node, OperatorNode, Parallel
from wfr.workflow.rules import Rules


def construction(workflow: Workflow, rules: Rules) -> list[Edit]:
    """Edits that, applied in order to an empty workflow, build one of the same outline and prompts.

    A structure is added with the first operator of each of its blocks; what follows in a block
    comes right after it.

    Raises:
        WorkflowError: edits cannot build it: a block begins with a structure, a node reads others
            than those before it, or `rules` forbid it.
    """
    builder = _Builder(rules)
    builder.append(workflow.nodes)
    return builder.edits


class _Builder:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._built = Workflow()
        self.edits: list[Edit] = []

    def append(self, block: Sequence[Node], after: str = "") -> None:
        """Add nodes one after another: behind the node `after`, or at the end."""
        for node in block:
            after = self._add(node, after)

    def _add(self, node: Node, after: str) -> str:
        """Add one node with all that it holds; returns its id."""
        place = Place(target=after) if after and self._later(after) else Place()
        match node:
            case OperatorNode():
                _plain(node)
                (added,) = self._apply(AddOperator(node.operator, node.prompt, place=place))
                return added
            case Parallel():
                firsts = [_first(branch) for branch in node.branches]
                own, *branches = self._apply(AddParallel(_names(firsts), _prompts(firsts), place))
                self._fill(zip(branches, node.branches, strict=True))
                return own
            case Conditional():
                arms = [arm for arm in (node.on_true, node.on_false) if arm]
                firsts = [_plain(node.condition), *map(_first, arms)]
                yes, no = _opening(node.on_true), _opening(node.on_false)
                edit = AddConditional(firsts[0].operator, yes, no, _prompts(firsts), place)
                own, _, *begun = self._apply(edit)
                self._fill(zip(begun, arms, strict=True))
                return own
            case Loop():
                until = [_plain(node.until)] if node.until else []
                firsts = [_first(node.body), *until]
                named = until[0].operator if until else ""
                loop = AddLoop((firsts[0].operator,), node.count, named, _prompts(firsts), place)
                own, first, *_ = self._apply(loop)
                self._fill([(first, node.body)])
                return own

    def _fill(self, begun: Iterable[tuple[str, Block]]) -> None:
        for first, block in begun:
            self.append(block[1:], first)

    def _later(self, after: str) -> bool:
        """Whether something would stand between `after` and what is added at the end."""
        return not self._built.nodes or self._built.nodes[-1].id != after

    def _apply(self, edit: Edit) -> tuple[str, ...]:
        outcome = apply(self._built, edit, self._rules)
        if not isinstance(outcome, Applied):
            raise WorkflowError(outcome.code, outcome.message)
        self._built = outcome.workflow
        self.edits.append(edit)
        return outcome.nodes


def _first(block: Block) -> OperatorNode:
    node = block[0]
    if not isinstance(node, OperatorNode):
        raise WorkflowError(
            Code.TOO_DEEP, f"a block begins with the structure {node.id}; begin it with an operator"
        )
    return _plain(node)


def _opening(arm: Block) -> str:
    """The operator that an arm begins with; an empty one does nothing."""
    return _first(arm).operator if arm else ""


def _plain(node: OperatorNode) -> OperatorNode:
    if node.inputs:
        raise WorkflowError(
            Code.UNKNOWN_INPUT, f"{node.id} names its inputs; let it read what is before it"
        )
    return node


def _names(nodes: Sequence[OperatorNode]) -> tuple[str, ...]:
    return tuple(node.operator for node in nodes)


def _prompts(nodes: Sequence[OperatorNode]) -> tuple[str, ...]:
    prompts = tuple(node.prompt for node in nodes)
    return prompts if any(prompts) else ()
