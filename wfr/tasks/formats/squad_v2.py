"""SQuAD 2.0: questions about a paragraph, a third of which it does not answer."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Document, Task


def task(row: Fields) -> Task:
    """From `id`, `question`, `answers`, `context` and `title`."""
    answers = _answers(row)
    impossible = row.flag("is_impossible", default=not answers)
    if not answers and not impossible:
        raise row.wrong("answers", "an answer of an answerable question", [])
    return Task(
        id=row.text("id"),
        question=row.text("question"),
        answers=() if impossible else answers,
        source="squad_v2",
        skill="no_answer" if impossible else "has_answer",
        metric="squad_v2",
        corpus=(Document(row.text("title", default="passage"), row.text("context")),),
    )


def _answers(row: Fields) -> tuple[str, ...]:
    if isinstance(row.row.get("answers"), dict):  # columns, as on the hub
        return tuple(dict.fromkeys(row.mapping("answers").texts("text", empty=True)))
    return tuple(dict.fromkeys(Fields(item).text("text") for item in row.items("answers")))
