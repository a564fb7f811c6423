"""Metrics that compare texts: pure functions of a task and an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from wfr.grading import aime, choice, gsm8k, hotpotqa, popqa, qa, squad_v2
from wfr.grading.base import Gradable, Grade
from wfr.grading.nq import normalise_nfd
from wfr.grading.triviaqa import normalise_spaced


def _qa(task: Gradable, answer: str, normal: qa.Normalise = qa.normalise) -> Grade:
    return Grade(
        float(qa.exact_match(answer, task.answers, normal)),
        {
            "f1": qa.best_f1(answer, task.answers, normal),
            "contains": float(qa.contains(answer, task.answers, normal)),
        },
    )


def _hotpotqa(task: Gradable, answer: str) -> Grade:
    f1 = max((hotpotqa.answer_f1(answer, gold) for gold in task.answers), default=0.0)
    return Grade(float(qa.exact_match(answer, task.answers)), {"f1": f1})


def _squad_v2(task: Gradable, answer: str) -> Grade:
    correct, f1 = squad_v2.score(answer, task.answers)
    return Grade(float(correct), {"f1": f1})


def _popqa(task: Gradable, answer: str) -> Grade:
    return Grade(float(popqa.contained(answer, task.answers)))


def _gsm8k(task: Gradable, answer: str) -> Grade:
    return Grade(float(any(gsm8k.correct(answer, gold) for gold in task.answers)))


def _aime(task: Gradable, answer: str) -> Grade:
    return Grade(float(any(aime.correct(answer, gold) for gold in task.answers)))


def _choice(task: Gradable, answer: str) -> Grade:
    options = json.loads(task.meta.get("options", "{}"))
    return Grade(float(any(choice.correct(answer, gold, options) for gold in task.answers)))


def grade_text(task: Gradable, answer: str) -> Grade:
    """Grade by a metric that compares texts; raises ValueError for any other."""
    if task.metric not in TEXT_METRICS:
        raise ValueError(
            f"task {task.id!r} asks for the metric {task.metric!r}; known here: "
            f"{', '.join(TEXT_METRICS)}"
        )
    return TEXT_METRICS[task.metric](task, answer)


class TextGrader:
    """Grades by text metrics alone: no process, no sandbox."""

    async def grade(self, task: Gradable, answer: str) -> Grade:
        """As `grade_text`."""
        return grade_text(task, answer)


TEXT_METRICS: Mapping[str, Callable[[Gradable, str], Grade]] = {
    "qa_em": _qa,
    "hotpotqa": _hotpotqa,
    "squad_v2": _squad_v2,
    "triviaqa": lambda task, answer: _qa(task, answer, normalise_spaced),
    "nq_open": lambda task, answer: _qa(task, answer, normalise_nfd),
    "popqa": _popqa,
    "gsm8k": _gsm8k,
    "aime": _aime,
    "choice": _choice,
}
"""For each metric that needs nothing but the two texts: its function."""
