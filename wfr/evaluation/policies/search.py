"""`search`: a Monte-Carlo search over workflow scripts on training tasks (the idea of AFlow).

A tree of scripts (arXiv 2410.10762): each round the most promising one, by UCB1, is changed in one
step; the changed one plays a few training tasks, and its score counts for its ancestors too. The
budget's last quarter plays the three best ones on more tasks, and the best of them is kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from collections.abc import Awaitable, Callable, Sequence

from wfr.evaluation.policies.base import Setting
from wfr.evaluation.policies.mutation import mutated
from wfr.evaluation.policies.scripts import Script
from wfr.tasks.source import Task

TASKS_PER_SCRIPT = 8
_FINALISTS = 3
_EXPLORATION = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The script that was kept, its mean score on training tasks, and how many were tried."""

    script: Script
    score: float
    tried: int
    episodes: int


@dataclasses.dataclass(slots=True, eq=False)
class _Node:
    script: Script
    parent: _Node | None
    visits: int = 0
    total: float = 0.0
    own: list[float] = dataclasses.field(default_factory=list)

    @property
    def mean(self) -> float:
        return sum(self.own) / len(self.own) if self.own else 0.0


async def search(
    setting: Setting,
    score: Callable[[Script, Task], Awaitable[float | None]],
    tasks: Sequence[Task],
    episodes: int,
) -> Found:
    """Search with so many episodes at most; deterministic under the setting's seed.

    `score` plays one task and returns None where the world failed.

    Raises:
        ValueError: no training task, or too few episodes for a single script.
    """
    if not tasks or episodes < 2 * TASKS_PER_SCRIPT:
        raise ValueError(
            f"the search needs training tasks and at least {2 * TASKS_PER_SCRIPT} episodes; it has "
            f"{len(tasks)} tasks and evaluation.search_episodes={episodes}"
        )
    rng = random.Random(f"search/{setting.seed}")
    nodes = [_Node((), None)]
    known: set[Script] = {()}
    played = 0
    while played + TASKS_PER_SCRIPT <= episodes * 3 // 4:
        parent = max(nodes, key=lambda node: _promise(node, nodes[0].visits))
        script = mutated(setting, parent.script, rng)
        played += TASKS_PER_SCRIPT  # a script that is known costs its share too: the loop ends
        if script in known:
            parent.visits += 1
            continue
        known.add(script)
        node = _Node(script, parent)
        nodes.append(node)
        await _visit(node, score, rng.sample(list(tasks), min(TASKS_PER_SCRIPT, len(tasks))))
    finalists = sorted(nodes[1:], key=_rank)[:_FINALISTS]
    each = max(1, (episodes - played) // len(finalists))
    drawn = rng.sample(list(tasks), min(each, len(tasks)))
    for node in finalists:
        await _visit(node, score, drawn)
    best = min(finalists, key=_rank)
    spent = sum(len(node.own) for node in nodes)
    return Found(best.script, best.mean, len(nodes) - 1, spent)


async def _visit(
    node: _Node,
    score: Callable[[Script, Task], Awaitable[float | None]],
    tasks: Sequence[Task],
) -> None:
    results = await asyncio.gather(*(score(node.script, task) for task in tasks))
    scores = [result for result in results if result is not None]
    node.own += scores
    above: _Node | None = node
    while above is not None:
        above.visits += len(scores)
        above.total += sum(scores)
        above = above.parent


def _promise(node: _Node, visits: int) -> float:
    """UCB1 (Auer et al. 2002) over all scripts."""
    if not node.visits:
        return math.inf
    return node.total / node.visits + _EXPLORATION * math.sqrt(math.log(visits + 1) / node.visits)


def _rank(node: _Node) -> tuple[float, int]:
    """Best first: by score, then the shorter script."""
    return -node.mean, len(node.script)
