"""PopQA: questions about long-tail entities."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `id`, `question`, `prop` and `possible_answers`, a JSON list in text."""
    return Task(
        f"popqa/{row.number('id')}",
        row.text("question"),
        row.texts("possible_answers"),
        "popqa",
        row.text("prop", default="popqa"),
        "popqa",
    )
