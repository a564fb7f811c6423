"""AIME: integers from 0 to 999."""

from __future__ import annotations

from wfr.grading.aime import integer
from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `problem` or `question`, and `answer`."""
    field = next((name for name in ("problem", "question", "Problem") if name in row), "problem")
    problem = row.text(field)
    answer = row.number("answer", "Answer")
    if integer(answer) is None:
        raise row.wrong("answer", "an integer from 0 to 999", answer)
    return Task(identity("aime", problem), problem, (answer,), "aime", "aime", "aime")
