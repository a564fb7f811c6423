"""The canvas reward: structure first, the answer behind a gate (FlowSteer, section 4).

    R = offset + w_div·R_div + w_con·R_con + λ·1[w_div·R_div + w_con·R_con ≥ θ]·R_ans

with R_div the sum of the shares of a checker, a Format, enough operators and a control structure,
R_con minus the share of turns that were refused, and R_ans in [0, 1] the grade of the answer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from wfr.canvas_config import CanvasRewardConfig
from wfr.grading.base import Grade
from wfr.operators.base import OperatorSpec
from wfr.rewards.base import Reward
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import Block, Conditional, Loop, OperatorNode, Parallel, operators, walk

_ROUNDING = 1e-9
_RELEASED_NAMES = re.compile(
    r"\b(?:Plan|Decompose|Programmer|Custom|AnswerGenerate|Test|Review|Verify|Revise|ScEnsemble"
    r"|Aggregate|Format)\b"
)
_RELEASED_CHECKERS = frozenset({"Verify", "Test", "Review"})
_RELEASED_LOOP = re.compile(r"x\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """What a reward counts in a workflow."""

    operators: int
    checker: bool
    format: bool
    control: bool
    solver: bool


@dataclasses.dataclass(frozen=True, slots=True)
class PlayedCanvas:
    """A finished episode: the last workflow, the grade of its answer, and what the turns were.

    `refused` counts turns without effect: no edit in the text, or an edit that was refused.
    """

    workflow: Workflow
    grade: Grade
    turns: int
    refused: int
    format_faults: int
    finished: bool
    calls: int = 0


def score(
    played: PlayedCanvas, specs: Mapping[str, OperatorSpec], config: CanvasRewardConfig
) -> Reward:
    """The reward of an episode; `specs` declares the operators by name."""
    found = structure(played.workflow, specs, config)
    shares = shares_of(found, config)
    diversity = weighted_diversity(found, config)
    constraint = -config.w_con * played.refused / played.turns if played.refused else 0.0
    gate = opens(diversity + constraint, config) and (found.solver or not config.need_solver)
    released = gate or not config.conditional_release
    parts = {
        "offset": config.offset,
        "diversity": diversity,
        "constraint": constraint,
        "answer": config.scale * played.grade.correct if released else 0.0,
    }
    metrics = {
        "correct": played.grade.correct,
        **played.grade.metrics,
        "gate": float(gate),
        **{f"has_{name}": float(share > 0) for name, share in shares.items()},
        **_shape(played.workflow),
        "turns": float(played.turns),
        "refused": float(played.refused),
        "format_faults": float(played.format_faults),
        "finished": float(played.finished),
        "operator_calls": float(played.calls),
    }
    return Reward(sum(parts.values()), parts, metrics)


def shares_of(found: Structure, config: CanvasRewardConfig) -> dict[str, float]:
    """The four parts of R_div, in the order in which they are summed."""
    return {
        "checker": config.checker_share * found.checker,
        "format": config.format_share * found.format,
        "enough_operators": config.operators_share * (found.operators >= config.min_operators),
        "structure": config.structure_share * found.control,
    }


def weighted_diversity(found: Structure, config: CanvasRewardConfig) -> float:
    """w_div·R_div."""
    return config.w_div * min(1.0, sum(shares_of(found, config).values()))


def opens(total: float, config: CanvasRewardConfig) -> bool:
    """Whether w_div·R_div + w_con·R_con reaches θ."""
    return total >= config.threshold - _ROUNDING


def structure(
    workflow: Workflow, specs: Mapping[str, OperatorSpec], config: CanvasRewardConfig
) -> Structure:
    """Count in a workflow what `config.measure` says."""
    if config.measure == "dsl_text":
        return released_structure(workflow.outline())
    if config.measure == "live_graph":
        return live_structure(workflow, specs)
    names = [node.operator for node in workflow.operators]
    control = any(not isinstance(node, OperatorNode) for node in walk(workflow.nodes))
    return _structure(names, specs, len(names), control=control)


def released_structure(dsl: str) -> Structure:
    """What the released code counts: names in the text, and marks of a structure.

    Its loop pattern is `x3`, while its graph prints `* 3`, so a loop never counts.
    """
    names = _RELEASED_NAMES.findall(dsl)
    return Structure(
        operators=len(names),
        checker=not _RELEASED_CHECKERS.isdisjoint(names),
        format="Format" in names,
        control=("[" in dsl and "]" in dsl)
        or ("?" in dsl and ":" in dsl)
        or _RELEASED_LOOP.search(dsl) is not None,
        solver=False,
    )


def live_structure(workflow: Workflow, specs: Mapping[str, OperatorSpec]) -> Structure:
    """Count different operators, and only where the output depends on the node.

    A parallel counts if two different operators live in it, any other structure if one does.
    """
    live = workflow.on_output_path()
    names = sorted({node.operator for node in workflow.operators if node.id in live})
    control = any(_controls(node, live) for node in walk(workflow.nodes))
    return _structure(names, specs, len(names), control=control)


def _structure(
    names: Iterable[str], specs: Mapping[str, OperatorSpec], count: int, *, control: bool
) -> Structure:
    categories = {specs[name].category for name in names if name in specs}
    return Structure(
        operators=count,
        checker="verification" in categories,
        format="formatting" in categories,
        control=control,
        solver="solving" in categories,
    )


def _controls(node: object, live: frozenset[str]) -> bool:
    match node:
        case Parallel(branches=branches):
            return len({name for branch in branches for name in _live(branch, live)}) > 1
        case Conditional(on_true=on_true, on_false=on_false):
            return bool(_live(on_true, live) | _live(on_false, live))
        case Loop(body=body):
            return bool(_live(body, live))
    return False


def _live(block: Block, live: frozenset[str]) -> set[str]:
    return {node.operator for node in operators(block) if node.id in live}


def _shape(workflow: Workflow) -> dict[str, float]:
    nodes = list(walk(workflow.nodes))
    return {
        "operators": float(workflow.size),
        "different_operators": float(len({node.operator for node in workflow.operators})),
        "parallels": float(sum(isinstance(node, Parallel) for node in nodes)),
        "conditionals": float(sum(isinstance(node, Conditional) for node in nodes)),
        "loops": float(sum(isinstance(node, Loop) for node in nodes)),
    }
