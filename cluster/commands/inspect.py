"""`wfr inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from cluster.console import BAD_INPUT, AsJson, fail
from cluster.run_directory import strict
from wfr.config import ConfigError
from wfr.schema import SchemaVersionError


def inspect(
    run: Annotated[Path, typer.Argument(help="Run directory, or a journal alone.")],
    sql: Annotated[
        str, typer.Option(help="A query over the tables `trajectories` and `metrics`.")
    ] = "DESCRIBE trajectories",
    as_json: AsJson = False,
) -> None:
    """Ask a run's journal and metrics in SQL (DuckDB).

    Examples:
      wfr inspect runs/quickstart
      wfr inspect runs/quickstart --sql "SELECT task_id, avg(reward) FROM trajectories GROUP BY 1"
    """
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
