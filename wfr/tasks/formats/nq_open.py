"""NaturalQuestions-open: a question and its accepted answers."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `question` and `answer`, a list."""
    question = row.text("question")
    answers = row.texts("answer")
    return Task(identity("nq_open", question), question, answers, "nq_open", "nq_open", "nq_open")
