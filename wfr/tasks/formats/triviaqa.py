"""TriviaQA: a question and every alias of its answer."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `QuestionId`, `Question` and `Answer`; in lower case as on the hub."""
    names = ("Answer", "Aliases", "HumanAnswers", "Value")
    if "Answer" not in row:
        names = ("answer", "aliases", "human_answers", "value")
    answer = row.mapping(names[0])
    found = [*answer.texts(names[1], empty=True)]
    found += answer.texts(names[2], empty=True) if names[2] in answer else ()
    found += [answer.text(names[3], default="")]
    golds = tuple(dict.fromkeys(text for text in found if text))
    if not golds:
        raise answer.wrong(names[1], "at least one alias", found)
    return Task(
        row.text("QuestionId", "question_id"),
        row.text("Question", "question"),
        golds,
        "triviaqa",
        "triviaqa",
        "triviaqa",
    )
