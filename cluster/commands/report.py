"""`wfr report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.console import BAD_INPUT, fail, print_line
from wfr.schema import SchemaVersionError


def report(
    run: Annotated[Path, typer.Argument(help="Directory of a run, for example runs/quickstart.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; none: report.html in the run.")
    ] = None,
) -> None:
    """Write a run's report: curves, staleness, books, time, operators, best and worst episodes.

    One HTML file that needs nothing else. Every run writes it at its end; this does so for one that
    still goes on, or was killed.

    Example:
      wfr report runs/quickstart
    """
    from wfr.report.page import write

    try:
        print_line(str(write(run, out)))
    except (OSError, SchemaVersionError) as error:
        fail(BAD_INPUT, str(error))
