"""2WikiMultihopQA: as HotpotQA, with evidence triples that are not read here."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `_id` (or `id`), `question`, `answer`, `type` and `context`."""
    return Task(
        id=row.text("_id", "id"),
        question=row.text("question"),
        answers=(row.text("answer"),),
        source="2wikimultihopqa",
        skill=row.text("type", default="2wikimultihopqa"),
        metric="hotpotqa",
        corpus=tuple(row.paragraphs()),
    )
