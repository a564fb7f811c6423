"""What a canvas allows: the operators on offer and the sizes that a workflow may reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from wfr.operators.base import OperatorSpec
from wfr.workflow.codes import Code
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import Conditional, Loop, Node, OperatorNode, Parallel, walk


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Sizes.

    Attributes:
        max_nodes: operators of a workflow, those in structures included.
        max_depth: structures around one operator.
        max_prompt_chars: length of one prompt; `min_prompt_chars` after stripping.
        max_loop_count: repetitions of one loop.
        max_branches: branches of one parallel structure.
    """

    max_nodes: int = 32
    max_depth: int = 4
    max_prompt_chars: int = 4000
    min_prompt_chars: int = 5
    max_loop_count: int = 10
    max_branches: int = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """The operators on offer, by name, and the limits."""

    operators: Mapping[str, OperatorSpec]
    limits: Limits = Limits()


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something that a workflow must not have, where, and what to do."""

    code: Code
    message: str
    node: str = ""
    hint: str = ""


def check(workflow: Workflow, rules: Rules) -> tuple[Problem, ...]:
    """Everything in which a workflow breaks the rules; unreachable nodes are not among it."""
    return tuple(_problems(workflow, rules))


def unreachable(workflow: Workflow) -> tuple[Problem, ...]:
    """A note for every operator whose output reaches nothing."""
    reached = workflow.on_output_path()
    return tuple(
        Problem(
            Code.UNREACHABLE_NODE,
            f"the output of {node.id} ({node.operator}) reaches nothing",
            node.id,
            f"let another node read {node.id}, or delete it",
        )
        for node in workflow.operators
        if node.id not in reached
    )


def _problems(workflow: Workflow, rules: Rules) -> Iterator[Problem]:
    limits = rules.limits
    if workflow.size > limits.max_nodes:
        yield Problem(
            Code.TOO_MANY_NODES,
            f"{workflow.size} operators are more than the {limits.max_nodes} allowed",
            hint="delete a node first",
        )
    if workflow.depth > limits.max_depth:
        yield Problem(
            Code.TOO_DEEP,
            f"structures are nested {workflow.depth} deep; {limits.max_depth} are allowed",
            hint="add the structure outside the others",
        )
    for node in walk(workflow.nodes):
        yield from _of_node(node, rules)


def _of_node(node: Node, rules: Rules) -> Iterator[Problem]:
    match node:
        case OperatorNode():
            yield from _of_operator(node, rules)
        case Conditional():
            yield from _of_check(node.condition, rules)
        case Loop():
            yield from _of_loop(node, rules)
        case Parallel():
            yield from _of_parallel(node, rules)


def _of_operator(node: OperatorNode, rules: Rules) -> Iterator[Problem]:
    limits = rules.limits
    if node.operator not in rules.operators:
        yield Problem(
            Code.UNKNOWN_OPERATOR,
            f"there is no operator {node.operator[:40]!r}",
            node.id,
            f"operators: {', '.join(rules.operators)}",
        )
    if len(node.prompt) > limits.max_prompt_chars:
        yield Problem(
            Code.PROMPT_TOO_LONG,
            f"the prompt has {len(node.prompt)} characters; {limits.max_prompt_chars} are allowed",
            node.id,
            "write a shorter prompt",
        )
    if node.prompt and len(node.prompt.strip()) < limits.min_prompt_chars:
        yield Problem(
            Code.PROMPT_TOO_SHORT,
            f"the prompt has fewer than {limits.min_prompt_chars} characters",
            node.id,
            "say in a sentence what the operator should do",
        )


def _of_check(node: OperatorNode, rules: Rules) -> Iterator[Problem]:
    spec = rules.operators.get(node.operator)
    if spec is not None and not spec.is_check:
        checks = [name for name, other in rules.operators.items() if other.is_check]
        yield Problem(
            Code.NOT_A_CHECK,
            f"{node.operator} gives no verdict, so it cannot be a condition",
            node.id,
            f"conditions: {', '.join(checks) or 'none on offer'}",
        )


def _of_loop(node: Loop, rules: Rules) -> Iterator[Problem]:
    if node.until:
        yield from _of_check(node.until, rules)
    if node.count > rules.limits.max_loop_count:
        yield Problem(
            Code.BAD_COUNT,
            f"a loop of {node.count} is over the {rules.limits.max_loop_count} allowed",
            node.id,
            f"choose a count from 1 to {rules.limits.max_loop_count}",
        )


def _of_parallel(node: Parallel, rules: Rules) -> Iterator[Problem]:
    if len(node.branches) > rules.limits.max_branches:
        yield Problem(
            Code.TOO_MANY_NODES,
            f"{len(node.branches)} branches are more than the {rules.limits.max_branches} allowed",
            node.id,
            "use fewer branches",
        )
    for branch in node.branches:
        first = branch[0]
        if not isinstance(first, OperatorNode) or first.inputs:
            continue
        spec = rules.operators.get(first.operator)
        if spec is not None and spec.is_ensemble:
            yield Problem(
                Code.MISPLACED_OPERATOR,
                f"{first.operator} begins a branch, where it has nothing to compare",
                first.id,
                f"add {first.operator} after the parallel structure",
            )
