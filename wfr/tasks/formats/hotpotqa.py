"""HotpotQA: questions over ten paragraphs."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `_id` (or `id`), `question`, `answer`, `type` and `context`."""
    return Task(
        id=row.text("_id", "id"),
        question=row.text("question"),
        answers=(row.text("answer"),),
        source="hotpotqa",
        skill=row.text("type", default="hotpotqa"),
        metric="hotpotqa",
        corpus=tuple(row.paragraphs()),
    )
