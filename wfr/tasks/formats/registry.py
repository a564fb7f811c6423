"""Every format by name, and which one a row looks like."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wfr.tasks.formats import (
    aime,
    apps,
    bamboogle,
    ds1000,
    flowsteer,
    gsm8k,
    hotpotqa,
    humaneval,
    math,
    mathqa,
    mbpp,
    musique,
    nq_open,
    popqa,
    search_r1,
    squad_v2,
    triviaqa,
    twowiki,
)
from wfr.tasks.formats.fields import FieldError, Fields
from wfr.tasks.rows import Row, apps_problems
from wfr.tasks.rows import rows as file_rows
from wfr.tasks.source import Task


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """How the rows of one benchmark become tasks.

    Attributes:
        task: one row to one task; raises FieldError.
        fields: what every row has, and rows of most other formats do not.
        unfold: a whole file's value to its rows, where a file is one object.
        read: rows of a path, where they are not in plain files.
    """

    task: Callable[[Fields], Task]
    fields: frozenset[str]
    unfold: Callable[[Any], Iterator[Any]] | None = None
    read: Callable[[Path], Iterator[Row]] = file_rows


def _squad(value: Any) -> Iterator[Any]:
    """Questions of articles of paragraphs."""
    for article in value["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {"title": article["title"], "context": paragraph["context"], **question}


def _trivia(value: Any) -> Iterator[Any]:
    yield from value["Data"]


def _apps_rows(path: Path) -> Iterator[Row]:
    folders = path.is_dir() and next(path.rglob("question.txt"), None) is not None
    return apps_problems(path) if folders else file_rows(path)


def _format(task: Callable[[Fields], Task], *fields: str, **how: Any) -> Format:
    return Format(task, frozenset(fields), **how)


FORMATS: Mapping[str, Format] = {
    "2wikimultihopqa": _format(twowiki.task, "evidences", "context", "question"),
    "hotpotqa": _format(hotpotqa.task, "supporting_facts", "context", "question"),
    "musique": _format(musique.task, "paragraphs", "question_decomposition"),
    "triviaqa": _format(triviaqa.task, "Question", "QuestionId", "Answer", unfold=_trivia),
    "squad_v2": _format(squad_v2.task, "context", "question", "answers", unfold=_squad),
    "popqa": _format(popqa.task, "possible_answers", "prop", "question"),
    "search_r1": _format(search_r1.task, "question", "data_source"),
    "flowsteer": _format(flowsteer.task, "problem", "problem_type", "ground_truth"),
    "humaneval": _format(humaneval.task, "prompt", "entry_point", "test"),
    "mbpp": _format(mbpp.task, "task_id", "test_list"),
    "apps": _format(apps.task, "question", "input_output", read=_apps_rows),
    "ds1000": _format(ds1000.task, "prompt", "code_context", "metadata"),
    "mathqa": _format(mathqa.task, "Problem", "options", "correct"),
    "math": _format(math.task, "problem", "solution"),
    "aime": _format(aime.task, "answer"),
    "gsm8k": _format(gsm8k.task, "question", "answer"),
    "nq_open": _format(nq_open.task, "question", "answer"),
    "bamboogle": _format(bamboogle.task, "Question", "Answer"),
}


def looks_like(value: Any) -> list[str]:
    """Names of the formats that a row fits, most particular first."""
    fitting = []
    for name, format in FORMATS.items():
        try:
            rows = [value] if format.unfold is None else [value, next(format.unfold(value))]
        except (KeyError, TypeError, StopIteration):
            rows = [value]
        if any(_fits(format, row) for row in rows):
            fitting.append(name)
    return fitting


def _fits(format: Format, row: Any) -> bool:
    if not isinstance(row, Mapping) or not format.fields <= row.keys():
        return False
    try:
        format.task(Fields(row))
    except FieldError:
        return False
    return True
