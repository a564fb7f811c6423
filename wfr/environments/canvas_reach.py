"""What workflows over a pool of operators can reach at best: can any be finished, and rewarded?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from wfr.canvas_config import CanvasConfig
from wfr.operators.base import OperatorSpec
from wfr.rewards.canvas import Structure, opens, released_structure, weighted_diversity


def out_of_reach(config: CanvasConfig, specs: Mapping[str, OperatorSpec]) -> tuple[str, str] | None:
    """A key whose condition no workflow over `specs` can meet, and why; none if all can be met."""
    gate, reward = config.finish_gate, config.reward
    categories = {spec.category for spec in specs.values()}
    absent = sorted({"solving", "verification"} - categories)
    if gate.checker and absent:
        return "environment.finish_gate.checker", (
            f"finish needs a solver and a check, and environment.pool={list(specs)} has no "
            f"operator of category {absent[0]}; so no workflow could be finished"
        )
    if gate.min_operators > config.max_nodes:
        return "environment.finish_gate.min_operators", (
            f"finish needs {gate.min_operators} operators, and environment.max_nodes="
            f"{config.max_nodes}; so no workflow could be finished"
        )
    best = _best(config, specs)
    reached = weighted_diversity(best, reward)
    if reward.conditional_release and not opens(reached, reward):
        return "environment.reward", (
            f"answers pay from w_div·R_div={reward.threshold:g} on, and the best workflow over "
            f"environment.pool={list(specs)} has {reached:g} (check: {best.checker}, format: "
            f"{best.format}, operators counted: {best.operators} of {reward.min_operators}); so "
            "no answer would ever be paid"
        )
    if reward.conditional_release and reward.need_solver and not best.solver:
        return "environment.reward.need_solver", (
            f"answers pay with a solver only, and environment.pool={list(specs)} has none"
        )
    return None


def _best(config: CanvasConfig, specs: Mapping[str, OperatorSpec]) -> Structure:
    """What workflows may count at most, each count for itself."""
    if config.reward.measure == "dsl_text":
        counted = released_structure(f"[{', '.join(specs)}]")
        return dataclasses.replace(counted, operators=config.max_nodes * bool(counted.operators))
    live = config.reward.measure == "live_graph"
    categories = {spec.category for spec in specs.values()}
    return Structure(
        operators=min(len(specs), config.max_nodes) if live else config.max_nodes,
        checker="verification" in categories,
        format="formatting" in categories,
        control=True,
        solver="solving" in categories,
    )
