"""Run benchmarks: `python -m benchmarks [NAME ...]`; without a name, all that take minutes."""

from __future__ import annotations

import ast
import importlib
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.harness import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OF_WHOLE_RUNS = ("async_ladder", "end_to_end", "planner", "recovery")
"""They train for a quarter of an hour and more each, so they are run by name only; the others
together take less than an hour on two cores."""


def names() -> list[str]:
    """The benchmarks: modules of this package that define `run`, in alphabetical order."""
    return sorted(
        path.stem
        for path in HERE.glob("[a-z]*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "run"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    )


def main(
    chosen: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Which; none: all but those of whole runs ({', '.join(OF_WHOLE_RUNS)}).",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Smallest sizes: does every path run?")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Say what there is, and end.")] = False,
    results: Annotated[
        Path, typer.Option(help="Directory of the stored results; RESULTS.md lies beside it.")
    ] = RESULTS,
) -> None:
    """Run benchmarks, compare them with the stored results, and store them.

    A missed target is reported and does not fail the command; a benchmark that cannot run does
    (exit code 1), after the others had their turn. `--quick` stores nothing.
    """
    console = Console()
    known = names()
    unknown = sorted(set(chosen or ()) - set(known))
    if unknown:
        console.print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}")
        raise typer.Exit(2)
    if listing:
        for name in known:
            console.print(f"{name}: {_about(name)}", highlight=False)
        return
    wanted = chosen or [name for name in known if name not in OF_WHOLE_RUNS]
    failed = [name for name in wanted if not _run(name, quick, results, console)]
    if failed:
        console.print(f"could not run: {', '.join(failed)}", style="red")
        raise typer.Exit(1)


def _about(name: str) -> str:
    tree = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")


def _load(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def _run(name: str, quick: bool, results: Path, console: Console) -> bool:
    console.rule(name)
    started = time.perf_counter()
    try:
        found = _load(name).run(quick)
    except Exception:  # noqa: BLE001 (whatever it is, the other benchmarks have their turn)
        traceback.print_exc(file=sys.stderr)
        return False
    seconds = time.perf_counter() - started
    kept = report.record(name, _about(name), found, seconds=seconds, quick=quick)
    console.print(_table(found.figures))
    for note in found.notes:
        console.print(f"- {note}", highlight=False)
    old = report.read(name, results)
    for line in report.worse(old, kept) if old else ():
        console.print(f"worse than the stored result: {line}", style="red")
    if not quick:
        report.write(kept, results)
    return True


def _table(figures: list[Figure]) -> Table:
    table = Table("figure", "median", "spread", "wanted", "")
    for item in figures:
        table.add_row(
            f"{item.name}\n[dim]{item.note}[/]" if item.note else item.name,
            f"{item.value:.3g} {item.unit}",
            f"{item.low:.3g} to {item.high:.3g}",
            str(item.target or ""),
            {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[item.met],
        )
    return table


if __name__ == "__main__":
    typer.run(main)
