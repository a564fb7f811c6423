"""`wfr inspect`."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from cluster.console import BAD_INPUT, NOT_FIT, AsJson, fail, print_line
from cluster.run_directory import strict
from wfr.config import ConfigError
from wfr.schema import SchemaVersionError

PORT = 8268


def inspect(
    run: Annotated[Path, typer.Argument(help="Run directory, or a journal alone.")],
    sql: Annotated[
        str | None, typer.Option(help="A query over the tables `trajectories` and `metrics`.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page; 0: any free one.")] = PORT,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    as_json: AsJson = False,
) -> None:
    """Look at a run's trajectories in a browser, on this machine only; or ask in SQL (DuckDB).

    Examples:
      wfr inspect runs/quickstart
      wfr inspect runs/quickstart --sql "DESCRIBE trajectories"
      wfr inspect runs/quickstart --sql "SELECT task_id, avg(reward) FROM trajectories GROUP BY 1"
    """
    if sql is None:
        if as_json:
            fail(BAD_INPUT, "--json prints the answer to a query: give one with --sql")
        _serve(run, port, browser)
    else:
        _query(run, sql, as_json)


def _serve(run: Path, port: int, browser: bool) -> None:
    from cluster.inspector.run import InspectedRun
    from cluster.inspector.server import serve

    def ready(address: str) -> None:
        print_line(f"{address}\nCtrl-C ends the inspector.")
        if browser:
            webbrowser.open(address)

    try:
        serve(InspectedRun(run), port, ready)
    except FileNotFoundError as error:
        fail(BAD_INPUT, str(error))
    except OSError as error:
        fail(NOT_FIT, f"--port {port}: {error}; choose another, or 0 for any free one")


def _query(run: Path, sql: str, as_json: bool) -> None:
    from cluster.query import query

    try:
        found = query(run, sql)
    except (ConfigError, SchemaVersionError) as error:
        fail(BAD_INPUT, str(error))
    if as_json:
        json.dump(strict(found.to_pylist()), sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    else:
        _show(found)


def _show(found: pa.Table) -> None:
    table = Table(*found.column_names)
    for row in found.to_pylist():
        table.add_row(*map(_cell, row.values()))
    console = Console()
    console.print(table)
    console.print(f"{found.num_rows} rows", highlight=False)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


_WIDEST = 200
