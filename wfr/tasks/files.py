"""Benchmark files as task sources.

A row that its format cannot read is left out and counted; with `strict` it ends the reading. Every
fault names the file, the line or item, and the field.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from wfr.grading.grader import known_metrics
from wfr.tasks.formats import custom
from wfr.tasks.formats.fields import FieldError, Fields
from wfr.tasks.formats.registry import FORMATS, looks_like
from wfr.tasks.hub import PREFIX, hub_rows
from wfr.tasks.rows import Fault, FormatError, Row, rows
from wfr.tasks.source import Document, Task


@dataclasses.dataclass(frozen=True, slots=True)
class Faulty:
    """A row that was left out: where it stands, and why."""

    where: str
    why: str

    def __str__(self) -> str:
        """As it is reported."""
        return f"{self.where}: {self.why}"


@dataclasses.dataclass(frozen=True, slots=True)
class Columns:
    """A user's own table: `columns` says which column is what, `metric` grades it."""

    columns: Mapping[str, str]
    metric: str = "qa_em"

    def __post_init__(self) -> None:
        """Refuse what cannot be a task; raises ValueError."""
        unknown = sorted(set(self.columns) - set(custom.NAMES))
        graded = {"answers", "tests"} & self.columns.keys()
        if unknown or "question" not in self.columns or not graded:
            raise ValueError(
                f"columns {dict(self.columns)}: name the columns of `question` and of `answers` or "
                f"`tests`, and of nothing but {', '.join(custom.NAMES)}"
            )
        if self.metric not in known_metrics():
            raise ValueError(
                f"metric {self.metric!r} is unknown; known: {', '.join(known_metrics())}"
            )


class FileTasks:
    """The tasks of a file; which are held out depends on their question's text alone."""

    def __init__(
        self,
        format: str,
        path: str | Path,
        held_out: float,
        eval_tasks: int,
        columns: Columns | None = None,
    ) -> None:
        """Load the tasks; raises FormatError for the file, ValueError for an unknown format."""
        self.name = format
        tasks, self.faults = load_tasks(format, path, columns=columns)
        self._train = [t for t in tasks if _share(t.question) >= held_out]
        kept_back = [t for t in tasks if _share(t.question) < held_out]
        self._held_out = _spread(kept_back, eval_tasks)

    def train(self) -> Sequence[Task]:
        """Tasks to learn from, in the file's order."""
        return self._train

    def held_out(self) -> Sequence[Task]:
        """At most `eval_tasks` tasks to decide by, drawn evenly over the skills."""
        return self._held_out

    def corpus(self) -> Sequence[Document]:
        """Nothing: each task brings its own passages."""
        return ()


def load_tasks(
    format: str,
    path: str | Path,
    *,
    strict: bool = False,
    columns: Columns | None = None,
) -> tuple[list[Task], list[Faulty]]:
    """All tasks of a file, a directory or a hub dataset, and the rows that were left out.

    Raises:
        FormatError: the file as a whole, more than half of its rows (it says which format they
            look like), or with `strict` the first row that does not fit.
        ValueError: an unknown format.
    """
    tasks: list[Task] = []
    faults: list[Faulty] = []
    for found in read_tasks(format, path, columns=columns):
        if isinstance(found, Task):
            tasks.append(found)
        elif strict:
            raise FormatError(str(found))
        else:
            faults.append(found)
    if len(faults) > len(tasks):
        raise FormatError(
            f"{faults[0]} ({len(faults)} of {len(faults) + len(tasks)} rows do not fit the format "
            f"{format!r}{_guess(format, path)})"
        )
    if not tasks:
        raise FormatError(f"{path}: holds no task")
    return tasks, faults


def read_tasks(
    format: str, path: str | Path, *, columns: Columns | None = None
) -> Iterator[Task | Faulty]:
    """Tasks and faulty rows as they come; memory holds the ids alone.

    Raises:
        FormatError: the file as a whole.
        ValueError: an unknown format.
    """
    convert = _converter(format, columns)
    seen: set[str] = set()
    for where, value in _rows(format, path):
        if isinstance(value, Fault):
            yield Faulty(where, value)
            continue
        try:
            task = convert(Fields(value))
        except FieldError as error:
            yield Faulty(where, str(error))
            continue
        if task.id in seen:
            yield Faulty(where, f"another row has the id {task.id!r} too")
            continue
        seen.add(task.id)
        yield task


def known_formats() -> list[str]:
    """Names of the formats."""
    return sorted([*FORMATS, "custom"])


def _converter(format: str, columns: Columns | None) -> Callable[[Fields], Task]:
    if format == "custom":
        if columns is None:
            raise ValueError("format 'custom' needs to know which column is what (tasks.columns)")
        return functools.partial(custom.task, columns=columns.columns, metric=columns.metric)
    if format not in FORMATS:
        raise ValueError(f"task format {format!r} is unknown; known: {', '.join(known_formats())}")
    return FORMATS[format].task


def _rows(format: str, path: str | Path) -> Iterator[Row]:
    if str(path).startswith(PREFIX):
        yield from hub_rows(str(path))
        return
    known = FORMATS.get(format)
    read = known.read if known else rows
    for where, value in read(Path(path)):
        if known is None or known.unfold is None or not isinstance(value, dict):
            yield where, value
            continue
        try:
            inner = list(known.unfold(value))
        except (KeyError, TypeError):
            inner = [value]  # a file of plain rows
        for index, row in enumerate(inner):
            yield (f"{where}: question {index}" if len(inner) > 1 else where), row


def _guess(format: str, path: str | Path) -> str:
    if str(path).startswith(PREFIX):
        return ""
    _, value = next(rows(path), ("", None))
    fitting = [name for name in looks_like(value) if name != format]
    return f"; they look like {fitting[0]!r}" if fitting else ""


def _share(question: str) -> float:
    """A number in [0, 1) that only the question's text decides."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8]) / 2**64


def _spread(tasks: Sequence[Task], count: int) -> list[Task]:
    """At most `count` tasks, taken in turn from each skill, smallest hash first."""
    skills: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda t: _share(t.question)):
        skills.setdefault(task.skill, []).append(task)
    rounds = itertools.zip_longest(*(skills[skill] for skill in sorted(skills)))
    taken = (task for tasks in rounds for task in tasks if task is not None)
    return list(itertools.islice(taken, count))
