"""`wfr audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.console import BAD_INPUT, FAILED, AsJson, fail, print_line

RunDir = Annotated[Path, typer.Argument(help="Directory of a run, for example runs/quickstart.")]


def audit(run: RunDir, as_json: AsJson = False) -> None:
    """Prove from a run's files that no group was lost or used twice and that the tokens add up.

    Exit code 1 and the first violation where that does not hold. The run may still be going on.

    Examples:
      wfr audit runs/quickstart
      wfr audit runs/quickstart --json
    """
    from wfr.audit import AuditError
    from wfr.audit import audit as examine

    try:
        report = examine(run)
    except AuditError as error:
        fail(BAD_INPUT, str(error))
    books = report.ledger
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        for note in report.notes:
            print_line(f"note: {note}")
        print_line(
            f"version {report.version}, {books.groups_consumed} groups consumed, lag at most "
            f"{report.max_lag_seen}; {books.generated} tokens generated = {books.consumed} "
            f"consumed + {books.discarded.total()} discarded + {books.waiting} waiting"
        )
    if report.violations:
        more = len(report.violations) - 1
        fail(FAILED, report.violations[0] + (f" (and {more} more)" if more else ""))
