"""Demonstrations of the edit grammar: what edits look like, not which ones are good.

Most of them build a simple workflow, of few stages in the order in which one would expect them;
the rest are random legal edits. The operators of a demonstration are drawn without a look at the
problem, and what they return is made up; so a director that learns from them knows how to edit,
and nothing about what helps.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping

from wfr.canvas_config import CanvasConfig, FinishGateConfig
from wfr.environments.canvas import Canvas
from wfr.grading.base import Gradable, Grade
from wfr.operators.base import OperatorSpec, Scope
from wfr.operators.library import canvas_specs
from wfr.operators.meter import Meter
from wfr.operators.values import NodeInput, NodeOutcome, Value
from wfr.tasks.demonstrations import Demonstration
from wfr.tasks.mixed_world import MixedWorld
from wfr.tasks.source import Task
from wfr.tasks.world import CITIES, FIRST_NAMES, JOBS
from wfr.tasks_config import WorldConfig
from wfr.trajectory import Message
from wfr.workflow.edit_text import edit_text
from wfr.workflow.edits import (
    AddConditional,
    AddLoop,
    AddOperator,
    AddParallel,
    Applied,
    Delete,
    Edit,
    Finish,
    Modify,
    SetPrompt,
    apply,
)
from wfr.workflow.graph import Workflow
from wfr.workflow.nodes import walk
from wfr.workflow.rules import Rules

SIMPLE_SHARE = 0.8
STRUCTURE_SHARE = 0.25
"""Share of the solving and of the checking stages that are a structure."""
PROMPT_SHARE = 0.05
PROMPTS = ("work step by step", "read every word", "check each number", "be brief")
THOUGHTS: Mapping[str, str] = {
    "planning": "plan",
    "solving": "solve",
    "verification": "check",
    "revision": "repair",
    "ensemble": "join",
    "formatting": "format",
    "parallel": "branch",
    "conditional": "decide",
    "loop": "repeat",
    "delete": "drop",
    "modify": "swap",
    "set_prompt": "tell",
    "finish": "done",
}
"""The one-word thought before an edit: the operator's category, or what the edit does."""

_STAGES: Mapping[str, float] = {
    "planning": 0.3,
    "solving": 1.0,
    "verification": 0.45,
    "revision": 0.1,
    "formatting": 0.35,
}
"""Stages of a simple workflow in their order, and the share of workflows that have them."""
_UNBOUNDED = 10_000
"""Turns: what a demonstration shows does not depend on how long an episode may be."""
_RANDOM_EDITS = range(1, 6)
_WEIGHTS: Mapping[str, float] = {
    "add": 10,
    "parallel": 2,
    "conditional": 2,
    "loop": 1,
    "delete": 0.7,
    "modify": 0.7,
    "set_prompt": 0.3,
}


def edit_demonstrations(
    config: CanvasConfig, world: WorldConfig, rng: random.Random, count: int
) -> list[Demonstration]:
    """So many demonstrations on the training tasks of a small world that is drawn for them."""
    small = world.model_copy(update={"questions": _QUESTIONS, "seed": rng.getrandbits(32)})
    tasks = MixedWorld(small).train()
    specs = canvas_specs(config.pool)

    async def draw() -> list[Demonstration]:
        drawn: list[Demonstration] = []
        while len(drawn) < count:
            drawn += await demonstrate_edits(rng.choice(tasks), config, specs, rng)
        return drawn[:count]

    return asyncio.run(draw())


_QUESTIONS = 40
"""Questions per skill: enough for the demonstrations of one world."""


async def demonstrate_edits(
    task: Task, config: CanvasConfig, specs: Mapping[str, OperatorSpec], rng: random.Random
) -> list[Demonstration]:
    """One episode of simple or random edits, with the environment's own feedback.

    A demonstration is a context: the whole episode, or each of its turns with the last feedback.
    """
    operators = {name: _MadeUp(spec, rng) for name, spec in specs.items()}
    may_finish = FinishGateConfig(min_operators=1, structure=False, checker=False, code_test=False)
    config = config.model_copy(update={"finish_gate": may_finish, "max_turns": _UNBOUNDED})
    canvas = Canvas(config, operators, _Indifferent())
    contexts = [[*canvas.reset(task).messages]]
    for edit in _edits(Rules(specs), rng):
        text = edit_text(edit, _thought(edit, specs), space=" ")
        contexts[-1].append(Message("assistant", text))
        step = await canvas.step(text, "stop")
        if step.fresh:
            contexts.append([])
        contexts[-1] += step.messages
    return [Demonstration(task.skill, good=False, messages=tuple(each)) for each in contexts]


def _edits(rules: Rules, rng: random.Random) -> list[Edit]:
    if rng.random() < SIMPLE_SHARE:
        return [*_simple_edits(rules, rng), Finish()]
    edits: list[Edit] = []
    workflow = Workflow()
    wanted = rng.choice(_RANDOM_EDITS)
    while len(edits) < wanted or not workflow.size:
        edit = random_edit(workflow, rules, rng)
        outcome = apply(workflow, edit, rules)
        if isinstance(outcome, Applied):
            workflow = outcome.workflow
            edits.append(edit)
    return [*edits, Finish()]


def _simple_edits(rules: Rules, rng: random.Random) -> Iterator[Edit]:
    offered: dict[str, list[str]] = {}
    for name, spec in rules.operators.items():
        offered.setdefault(spec.category, []).append(name)
    for stage, share in _STAGES.items():
        names = offered.get(stage, [])
        if not names or rng.random() >= share:
            continue
        name, structure = rng.choice(names), rng.random() < STRUCTURE_SHARE
        if structure and stage == "solving" and len(names) > 1:
            yield AddParallel(tuple(rng.sample(names, min(len(names), rng.choice((2, 3))))))
            if offered.get("ensemble"):
                yield AddOperator(rng.choice(offered["ensemble"]))
        elif structure and stage == "verification" and offered.get("revision"):
            yield AddConditional(name, "", rng.choice(offered["revision"]))
        else:
            yield AddOperator(name, _prompt(rng))


def random_edit(workflow: Workflow, rules: Rules, rng: random.Random) -> Edit:
    """Any edit of operators and nodes that there are; `workflow` may refuse it."""
    names = list(rules.operators)
    checks = [name for name, spec in rules.operators.items() if spec.is_check] or names
    plain = [n for n, spec in rules.operators.items() if not (spec.is_check or spec.is_ensemble)]
    plain = plain or names
    nodes = [node.id for node in walk(workflow.nodes)] or ["node_1"]
    operators = [node.id for node in workflow.operators] or ["node_1"]
    (action,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    match action:
        case "parallel":
            return AddParallel(tuple(rng.sample(plain, min(len(plain), rng.choice((2, 2, 3))))))
        case "conditional":
            arms = rng.choice((("", "x"), ("", "x"), ("x", ""), ("x", "x")))
            one, other = (rng.choice(plain) if arm else "" for arm in arms)
            return AddConditional(rng.choice(checks), one, other)
        case "loop":
            wanted = min(len(plain), rng.choice((1, 2)))
            return AddLoop(tuple(rng.sample(plain, wanted)), rng.choice((2, 3)))
        case "delete":
            return Delete(rng.choice(nodes))
        case "modify":
            return Modify(rng.choice(operators), rng.choice(names))
        case "set_prompt":
            return SetPrompt(rng.choice(operators), rng.choice(PROMPTS))
    return AddOperator(rng.choice(names), _prompt(rng))


def _prompt(rng: random.Random) -> str:
    return rng.choice(PROMPTS) if rng.random() < PROMPT_SHARE else ""


def _thought(edit: Edit, specs: Mapping[str, OperatorSpec]) -> str:
    key = specs[edit.operator].category if isinstance(edit, AddOperator) else edit.action
    return THOUGHTS.get(key, "add")


class _MadeUp:
    """An operator that returns something plausible."""

    parameters = "made up"

    def __init__(self, spec: OperatorSpec, rng: random.Random) -> None:
        self.spec = spec
        self._rng = rng

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        text = self._rng.choice(
            (str(self._rng.randrange(200)), *(self._rng.choice(w) for w in _WORDS))
        )
        passed = self._rng.random() < 0.5 if self.spec.is_check else None
        return NodeOutcome(Value(text, passed=passed))


_WORDS = (CITIES, FIRST_NAMES, JOBS, ("def f(xs):",), ("1. find the passage",))


class _Indifferent:
    """Demonstrations are never graded."""

    async def grade(self, task: Gradable, answer: str) -> Grade:
        return Grade(0.0)
