"""A user's own table: which column is what."""

from __future__ import annotations

from collections.abc import Mapping

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Document, Task

NAMES = ("question", "answers", "id", "skill", "context", "tests")
"""What a column can be; `question`, and `answers` or `tests`, are needed."""


def task(row: Fields, columns: Mapping[str, str], metric: str) -> Task:
    """From the columns that `columns` names; `answers` may be one text or a list of them."""
    question = row.text(columns["question"])
    golds = _texts(row, columns.get("answers"))
    tests = _texts(row, columns.get("tests"))
    context = row.text(columns["context"]) if "context" in columns else ""
    return Task(
        row.number(columns["id"]) if "id" in columns else identity("custom", question),
        question,
        golds,
        "custom",
        row.text(columns["skill"]) if "skill" in columns else "custom",
        metric,
        corpus=(Document("context", context),) if context else (),
        tests=tests,
    )


def _texts(row: Fields, column: str | None) -> tuple[str, ...]:
    if column is None:
        return ()
    value = row.row.get(column)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (row.number(column),)
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return (row.text(column),)
    return row.texts(column)
