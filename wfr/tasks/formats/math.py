r"""MATH: solutions whose answer is in the last `\boxed{}`."""

from __future__ import annotations

from wfr.grading.boxed import last_boxed
from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `problem`, `solution` (or `answer`), and `level` or `type` for the skill."""
    problem = row.text("problem")
    solution = row.text("solution", "answer")
    gold = row.text("answer", default="") or last_boxed(solution)
    if not gold:
        raise row.wrong("solution", r"an answer in \boxed{}", solution)
    skill = row.text("type", "subject", "level", default="math")
    return Task(identity("math", problem), problem, (gold,), "math", skill, "math")
