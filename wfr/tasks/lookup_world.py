"""The embedded benchmark: questions about one drawn world that take one to four steps to answer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from wfr.tasks.questions import SKILLS, Question, draw_question
from wfr.tasks.source import Document, Task
from wfr.tasks.world import World
from wfr.tasks_config import WorldConfig

_DRAWS_PER_QUESTION = 20
"""Draws before a skill counts as exhausted: each question is then missed with odds of e^-20."""


class LookupWorld:
    """A task source over one world; which questions are held out depends on their text alone."""

    name = "lookup_world"

    def __init__(self, config: WorldConfig, held_out: float = 0.2, eval_tasks: int = 240) -> None:
        """Draw the world and its questions; raises ValueError for a world too big for its names."""
        rng = random.Random(f"lookup_world/{config.seed}")
        self._world = World.draw(config, rng)
        self._train: list[Task] = []
        self._held_out: list[Task] = []
        skills = [s for s in SKILLS if s != "misleading" or config.namesakes]
        for skill in skills:
            tasks = [_task(q) for q in _distinct(self._world, skill, config.questions, rng)]
            split = sorted(tasks, key=lambda task: _hash(task.question))
            rest = [task for task in split if _hash(task.question) >= held_out]
            self._train += rest
            self._held_out += split[: min(len(split) - len(rest), eval_tasks // len(skills))]

    def train(self) -> Sequence[Task]:
        """Tasks to learn from, equally many per skill but for the hash."""
        return self._train

    def held_out(self) -> Sequence[Task]:
        """At most `eval_tasks` tasks to decide by, drawn evenly over the skills."""
        return self._held_out

    def corpus(self) -> Sequence[Document]:
        """One passage per entity."""
        return self._world.documents()


def _distinct(world: World, skill: str, count: int, rng: random.Random) -> list[Question]:
    questions: dict[str, Question] = {}
    for _ in range(_DRAWS_PER_QUESTION * count):
        question = draw_question(world, skill, rng)
        questions.setdefault(question.text, question)
        if len(questions) == count:
            break
    return list(questions.values())


def _hash(question: str) -> float:
    """A number in [0, 1) that only the question's text decides."""
    return int.from_bytes(hashlib.md5(question.encode()).digest()) / 2**128


def _task(question: Question) -> Task:
    return Task(
        id=f"lookup_world/{hashlib.md5(question.text.encode()).hexdigest()[:12]}",
        question=question.text,
        answers=(question.answer,),
        source="lookup_world",
        skill=question.skill,
        metric="gsm8k" if question.skill == "arithmetic" else "qa_em",  # qa_em ignores a minus
    )
