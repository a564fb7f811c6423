"""Bamboogle: two-hop questions that search engines get wrong."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `Question` and `Answer`."""
    question = row.text("Question", "question")
    answer = row.text("Answer", "answer")
    return Task(identity("bamboogle", question), question, (answer,), "bamboogle", "bamboogle")
