"""Random legal steps, and random changes of scripts that keep them legal."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import cast

from wfr.environments.canvas_demonstrations import random_edit
from wfr.evaluation.policies.base import Setting
from wfr.evaluation.policies.scripts import Script
from wfr.evaluation.policies.tool_script import ToolCall, feasible
from wfr.operators.base import OperatorSpec
from wfr.workflow.edits import (
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Applied,
    Edit,
    apply,
)
from wfr.workflow.graph import Workflow
from wfr.workflow.rules import Rules

MOST_STEPS = 6
ADDITIONS = (AddOperator, AddParallel, AddConditional, AddLoop)
"""What scripts consist of: other edits would name nodes that a change of the script renumbers."""
_DRAWS = 100


def any_operator(
    offered: Mapping[str, OperatorSpec], names: Sequence[str], rng: random.Random
) -> str:
    """An operator that may be called after `names`, or nothing where there is none."""
    choice = [name for name in offered if feasible(offered, names, name)]
    return rng.choice(choice) if choice else ""


def any_edit(
    workflow: Workflow, rules: Rules, rng: random.Random, kinds: tuple[type, ...] = (object,)
) -> tuple[Edit, Workflow]:
    """An edit of these kinds that `workflow` takes, and what comes of it.

    Raises:
        ValueError: none was found.
    """
    for _ in range(_DRAWS):
        edit = random_edit(workflow, rules, rng)
        if not isinstance(edit, kinds):
            continue
        outcome = apply(workflow, edit, rules)
        if isinstance(outcome, Applied):
            return edit, outcome.workflow
    raise ValueError(f"no legal edit found for {workflow}")


def mutated(setting: Setting, script: Script, rng: random.Random) -> Script:
    """`script` with a step inserted, dropped or exchanged; legal, and never empty."""
    for _ in range(_DRAWS):
        changed = _changed(setting, script, rng)
        if changed and changed != script and len(changed) <= MOST_STEPS:
            return changed
    return script


def _changed(setting: Setting, script: Script, rng: random.Random) -> Script:
    action = rng.choice(("insert", "insert", "drop", "exchange")) if script else "insert"
    place = rng.randrange(len(script) + (action == "insert"))
    before, after = script[:place], script[place + (action != "insert") :]
    if setting.kind == "canvas":
        return _edited(setting, before, after, rng, drop=action == "drop")
    names = [step.operator for step in cast("tuple[ToolCall, ...]", (*before, *after))]
    if action != "drop":
        name = any_operator(setting.offered, names[:place], rng)
        names[place:place] = [name] if name else []
    legal = all(feasible(setting.offered, names[:i], name) for i, name in enumerate(names))
    return tuple(ToolCall(name) for name in names) if legal else ()


def _edited(
    setting: Setting, before: Script, after: Script, rng: random.Random, *, drop: bool
) -> tuple[Edit, ...]:
    rules = Rules(setting.offered)
    edits = list(cast("tuple[Edit, ...]", before))
    workflow = _built(edits, rules)
    if workflow is None:
        return ()
    if not drop:
        edits.append(any_edit(workflow, rules, rng, ADDITIONS)[0])
    edits += cast("tuple[Edit, ...]", after)
    whole = _built(edits, rules)
    return tuple(edits) if whole is not None and whole.size else ()


def _built(edits: Sequence[Edit], rules: Rules) -> Workflow | None:
    workflow = Workflow()
    for edit in edits:
        outcome = apply(workflow, edit, rules)
        if not isinstance(outcome, Applied):
            return None
        workflow = outcome.workflow
    return workflow
