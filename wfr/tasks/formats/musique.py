"""MuSiQue: two to four hops; in the Full version half the questions have no answer."""

from __future__ import annotations

from collections.abc import Iterator

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Document, Task


def task(row: Fields) -> Task:
    """From `id`, `question`, `paragraphs`, `answer`, `answer_aliases` and `answerable`."""
    identifier = row.text("id")
    answerable = row.flag("answerable", default=True)
    aliases = row.texts("answer_aliases", empty=True) if "answer_aliases" in row else ()
    return Task(
        id=identifier if answerable else f"{identifier}/unanswerable",
        question=row.text("question"),
        answers=(row.text("answer"), *aliases) if answerable else (),
        source="musique",
        skill=identifier.split("_")[0],
        metric="qa_em" if answerable else "squad_v2",
        corpus=tuple(_paragraphs(row)),
        meta={"pair": identifier},
    )


def _paragraphs(row: Fields) -> Iterator[Document]:
    for item in map(Fields, row.items("paragraphs")):
        yield Document(item.text("title"), item.text("paragraph_text"))
