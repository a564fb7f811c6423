"""Benchmark files as task sources: HotpotQA (one JSON array) and GSM8K (JSON lines).

Every error names the file, the line or item, and the field.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wfr.grading.gsm8k import final_number
from wfr.tasks.source import Document, Task


class FormatError(ValueError):
    """A benchmark file that is not what its format says."""


class FileTasks:
    """The tasks of a file; which are held out depends on their question's text alone."""

    def __init__(self, format: str, path: str | Path, held_out: float, eval_tasks: int) -> None:
        """Load the tasks; raises FormatError for the file, ValueError for an unknown format."""
        self.name = format
        tasks = load_tasks(format, path)
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


def load_tasks(format: str, path: str | Path) -> list[Task]:
    """Load a benchmark file, or every file of a directory in the order of their names.

    Raises:
        FormatError: naming the file, the line or item, and the field.
        ValueError: for an unknown format.
    """
    if format not in _FORMATS:
        raise ValueError(f"task format {format!r} is unknown; known: {', '.join(_FORMATS)}")
    suffix, load = _FORMATS[format]
    tasks = [task for file in _files(Path(path), suffix) for task in load(file)]
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise FormatError(f"{path}: two tasks have the id {task.id!r}")
        seen.add(task.id)
    if not tasks:
        raise FormatError(f"{path}: holds no task")
    return tasks


def _hotpotqa(file: Path) -> Iterator[Task]:
    rows = _parse(_decode(file.read_bytes(), str(file)), str(file))
    if not isinstance(rows, list):
        raise FormatError(f"{file}: expected one array of items, found {_kind(rows)}")
    for index, row in enumerate(rows):
        where = f"{file}: item {index}"
        yield Task(
            id=_text(row, "_id", where),
            question=_text(row, "question", where),
            answers=(_text(row, "answer", where),),
            source="hotpotqa",
            skill=_text(row, "type", where),
            corpus=tuple(_paragraphs(row, where)),
        )


def _paragraphs(row: Any, where: str) -> Iterator[Document]:
    context = row.get("context")
    if not isinstance(context, list):
        raise _wrong(where, "context", "a list of [title, sentences]", context)
    for number, paragraph in enumerate(context):
        match paragraph:
            case [str(title), [*sentences]] if all(isinstance(s, str) for s in sentences):
                yield Document(title, "".join(sentences).strip())
            case _:
                raise _wrong(where, f"context[{number}]", "[title, sentences]", paragraph)


def _gsm8k(file: Path) -> Iterator[Task]:
    # Only line feeds end a line: str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        where = f"{file}: line {number}"
        text = _decode(line, where)
        if not text.strip():
            continue
        row = _parse(text, where)
        question, solution = _text(row, "question", where), _text(row, "answer", where)
        gold = final_number(solution)
        if gold is None:
            raise FormatError(f"{where}: field 'answer' has no final number after '#### '")
        yield Task(_id("gsm8k", question), question, (gold,), "gsm8k", "gsm8k", "gsm8k")


_FORMATS: Mapping[str, tuple[str, Callable[[Path], Iterator[Task]]]] = {
    "hotpotqa": (".json", _hotpotqa),
    "gsm8k": (".jsonl", _gsm8k),
}


def _files(path: Path, suffix: str) -> list[Path]:
    files = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FormatError(f"{path}: is no file and holds no *{suffix} file")
    return files


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: is not UTF-8 at byte {error.start}") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"{where}: is not JSON: {error}") from None


def _text(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise FormatError(f"{where}: expected an object, found {_kind(row)}")
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, field, "text", value)
    return value.strip()


def _wrong(where: str, field: str, expected: str, value: Any) -> FormatError:
    return FormatError(f"{where}: field {field!r}: expected {expected}, found {_kind(value)}")


def _kind(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:37] + '...'}"


def _id(source: str, question: str) -> str:
    return f"{source}/{hashlib.sha256(question.encode()).hexdigest()[:12]}"


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
