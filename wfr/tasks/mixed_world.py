"""The embedded benchmark of three kinds: reading passages, arithmetic, and small programs."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence

from wfr.tasks.programs import ENTRY_POINT, Program, all_programs
from wfr.tasks.questions import Question, draw_question
from wfr.tasks.source import Document, Task
from wfr.tasks.word_problems import WordProblem, draw_word_problem
from wfr.tasks.world import World
from wfr.tasks_config import WorldConfig

QA_SKILLS = ("hop1", "hop2", "comparison")
MATH_STEPS = (2, 3)
_DISTRACTORS = 3
_DRAWS_PER_TASK = 20


class MixedWorld:
    """A task source; which tasks are held out depends on their text alone.

    `meta["problem_type"]` is `qa`, `math` or `code`. A question brings the passages that it takes
    and some that it does not. A programming task has public tests, and hidden ones that grade.
    """

    name = "mixed_world"

    def __init__(self, config: WorldConfig, held_out: float = 0.2, eval_tasks: int = 240) -> None:
        """Draw the tasks; raises ValueError for a world too big for its names."""
        rng = random.Random(f"mixed_world/{config.seed}")
        world = World.draw(config, rng)
        skills = [
            *(_distinct(_questions(world, skill, rng), config.questions) for skill in QA_SKILLS),
            *(_distinct(_word_problems(steps, rng), config.questions) for steps in MATH_STEPS),
            _some([_program_task(program) for program in all_programs(rng)], config.questions, rng),
        ]
        self._train: list[Task] = []
        self._held_out: list[Task] = []
        for tasks in skills:
            kept_back = sorted((t for t in tasks if _share(t) < held_out), key=_share)
            self._train += (t for t in tasks if _share(t) >= held_out)
            self._held_out += kept_back[: eval_tasks // len(skills)]

    def train(self) -> Sequence[Task]:
        """Tasks to learn from, equally many per skill but for the hash."""
        return self._train

    def held_out(self) -> Sequence[Task]:
        """At most `eval_tasks` tasks to decide by, drawn evenly over the skills."""
        return self._held_out

    def corpus(self) -> Sequence[Document]:
        """Nothing: each task brings its own passages."""
        return ()


def _some(tasks: list[Task], count: int, rng: random.Random) -> list[Task]:
    return rng.sample(tasks, min(count, len(tasks)))


def _distinct(tasks: Iterator[Task], count: int) -> list[Task]:
    found: dict[str, Task] = {}
    for _ in range(_DRAWS_PER_TASK * count):
        task = next(tasks)
        found.setdefault(task.id, task)
        if len(found) == count:
            break
    return list(found.values())


def _questions(world: World, skill: str, rng: random.Random) -> Iterator[Task]:
    while True:
        question = draw_question(world, skill, rng)
        passages = list(_passages(world, question))
        others = [d for d in world.documents() if d not in passages and not _clashes(d, passages)]
        corpus = passages + rng.sample(others, _DISTRACTORS)
        rng.shuffle(corpus)
        yield _task(question.text, (question.answer,), skill, "qa", corpus=corpus)


def _passages(world: World, question: Question) -> Iterator[Document]:
    """The passages that the answer rests on."""
    if question.skill == "comparison":
        yield from (world[name].document() for name in question.subjects)
        return
    name = question.subjects[0]
    for attribute in question.path:
        yield world[name].document()
        name = world[name].facts[attribute]


def _clashes(document: Document, passages: Iterable[Document]) -> bool:
    """A namesake's passage would contradict the one that is meant."""
    return any(document.text.split()[:2] == passage.text.split()[:2] for passage in passages)


def _word_problems(steps: int, rng: random.Random) -> Iterator[Task]:
    while True:
        problem: WordProblem = draw_word_problem(rng, steps)
        yield _task(problem.text, (str(problem.answer),), f"steps{steps}", "math", "gsm8k")


def _program_task(program: Program) -> Task:
    task = _task(program.text, (), "program", "code", "hidden_tests")
    return dataclasses.replace(
        task,
        tests=program.hidden,
        public_tests=program.public,
        meta={**task.meta, "entry_point": ENTRY_POINT},
    )


def _task(
    text: str,
    answers: tuple[str, ...],
    skill: str,
    kind: str,
    metric: str = "qa_em",
    corpus: Sequence[Document] = (),
) -> Task:
    return Task(
        id=f"mixed_world/{hashlib.md5(text.encode()).hexdigest()[:12]}",
        question=text,
        answers=answers,
        source="mixed_world",
        skill=skill,
        metric=metric,
        corpus=tuple(corpus),
        meta={"problem_type": kind},
    )


def _share(task: Task) -> float:
    """A number in [0, 1) that only the task's text decides."""
    return int.from_bytes(hashlib.md5(task.question.encode()).digest()) / 2**128
