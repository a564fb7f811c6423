"""`wfr data check | overlap | sample`: look at benchmark files before they are trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.console import BAD_INPUT, DONE, FAILED, AsJson, fail
from wfr.tasks.files import Columns, Faulty, known_formats, read_tasks
from wfr.tasks.formats.registry import looks_like
from wfr.tasks.hub import PREFIX
from wfr.tasks.overlap import overlaps
from wfr.tasks.rows import FormatError, rows
from wfr.tasks.source import Task

_SHOWN_FAULTS = 10
_SHOWN_OVERLAPS = 20

data = typer.Typer(
    help="Look at benchmark files: count, validate, sample, and find what two of them share.",
    no_args_is_help=True,
)

Format = Annotated[
    str,
    typer.Option("--format", "-f", help="What the rows are; none: what they look like."),
]
Columnar = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="NAME=COLUMN", help="For --format custom, e.g. question=prompt."
    ),
]
Metric = Annotated[str, typer.Option(help="For --format custom: how answers are graded.")]
Source = Annotated[str, typer.Argument(help="File, directory, or hub:NAME[:CONFIG[:SPLIT]].")]


@data.command()
def check(
    path: Source,
    format: Format = "",
    column: Columnar = None,
    metric: Metric = "qa_em",
    show: Annotated[int, typer.Option(help="Tasks to print.")] = 2,
    strict: Annotated[bool, typer.Option(help="Exit with 2 if any row is left out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every row as training would, count tasks and faults, and print the first ones.

    Examples:
      wfr data check gsm8k/test.jsonl --format gsm8k
      wfr data check mine.csv --format custom --column question=prompt --column answers=gold
    """
    name = format or _guess(path)
    first: list[Task] = []
    faults: list[Faulty] = []
    skills: Counter[str] = Counter()
    metrics: Counter[str] = Counter()
    faulty = 0
    for found in _read(name, path, column, metric):
        if isinstance(found, Faulty):
            faulty += 1
            faults += [found] if len(faults) < _SHOWN_FAULTS else []
            continue
        skills[found.skill] += 1
        metrics[found.metric] += 1
        first += [found] if len(first) < show else []
    report = {
        "format": name,
        "tasks": sum(skills.values()),
        "faulty": faulty,
        "skills": dict(skills.most_common()),
        "metrics": dict(metrics),
        "faults": [str(fault) for fault in faults],
        "first": [_plain(task) for task in first],
    }
    _print_check(report) if not as_json else typer.echo(json.dumps(report, indent=2))
    if not report["tasks"] or (strict and faulty):
        raise typer.Exit(BAD_INPUT)


@data.command()
def sample(
    path: Source,
    count: Annotated[int, typer.Option("--count", "-n", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Another seed, another sample.")] = 0,
    format: Format = "",
    column: Columnar = None,
    metric: Metric = "qa_em",
) -> None:
    """Draw tasks as JSON lines; the same file and seed always give the same ones."""

    def rank(task: Task) -> bytes:
        return hashlib.sha256(f"{seed}\0{task.id}".encode()).digest()

    found = (t for t in _read(format or _guess(path), path, column, metric) if isinstance(t, Task))
    for task in heapq.nsmallest(count, found, key=rank):
        typer.echo(json.dumps(_plain(task), ensure_ascii=False))


@data.command()
def overlap(
    left: Source,
    right: Source,
    left_format: Annotated[str, typer.Option(help="Format of the first file.")] = "",
    right_format: Annotated[str, typer.Option(help="Format of the second file.")] = "",
    threshold: Annotated[float, typer.Option(help="Least similarity, up to 1.")] = 0.7,
    as_json: AsJson = False,
) -> None:
    """Find questions of RIGHT (held out) that LEFT (training) has too, exactly or nearly.

    Exits with 1 where there are any, so that a script can refuse to go on.
    """
    try:
        found = list(overlaps(_tasks(left_format, left), _tasks(right_format, right), threshold))
    except ValueError as error:
        fail(BAD_INPUT, str(error))
    exact = sum(item.similarity == 1.0 for item in found)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(item) for item in found], indent=2))
    else:
        typer.echo(f"{len(found)} of the second file's questions are in the first, {exact} exactly")
        for item in sorted(found, key=lambda i: -i.similarity)[:_SHOWN_OVERLAPS]:
            typer.echo(f"  {item.similarity:.2f}  {item.right} = {item.left}: {item.question[:80]}")
    raise typer.Exit(FAILED if found else DONE)


def _tasks(format: str, path: str) -> Iterator[Task]:
    return (t for t in _read(format or _guess(path), path, None, "qa_em") if isinstance(t, Task))


def _read(format: str, path: str, column: list[str] | None, metric: str) -> Iterator[Task | Faulty]:
    try:
        columns = _columns(column, metric) if format == "custom" else None
        yield from read_tasks(format, path, columns=columns)
    except (FormatError, ValueError) as error:
        fail(BAD_INPUT, str(error))


def _columns(pairs: list[str] | None, metric: str) -> Columns:
    split = [pair.partition("=") for pair in pairs or ()]
    return Columns({name: column for name, _, column in split}, metric)


def _guess(path: str) -> str:
    if path.startswith(PREFIX):
        fail(BAD_INPUT, f"{path}: say --format; known: {', '.join(known_formats())}")
    try:
        _, first = next(rows(Path(path)), ("", None))
    except FormatError as error:
        fail(BAD_INPUT, str(error))
    fitting = looks_like(first)
    if not fitting:
        fail(
            BAD_INPUT,
            f"{path}: looks like none of the formats; say --format, one of "
            f"{', '.join(known_formats())}",
        )
    return fitting[0]


def _plain(task: Task) -> dict[str, Any]:
    values = dataclasses.asdict(task)
    values["corpus"] = len(task.corpus)
    return {key: value for key, value in values.items() if value not in ((), "", {}, 0)}


def _print_check(report: dict[str, Any]) -> None:
    console = Console()
    table = Table("skill", "tasks", title=f"{report['format']}: {report['tasks']} tasks")
    for skill, count in report["skills"].items():
        table.add_row(skill, str(count))
    console.print(table)
    for task in report["first"]:
        console.print_json(json.dumps(task, ensure_ascii=False))
    if report["faulty"]:
        console.print(f"{report['faulty']} rows are left out:", style="red")
        for fault in report["faults"]:
            console.print(f"  {fault}", markup=False, highlight=False, soft_wrap=True)
