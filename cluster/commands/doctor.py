"""`wfr doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cluster.console import DONE, NOT_FIT, AsJson, Overrides, load, print_line
from cluster.preflight import Check, checks
from wfr.config import Config


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="Check for this run; none: defaults.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Ask whether this machine and installation are fit for a run, and what to do if not.

    With RAY_ADDRESS set, every machine of that cluster is asked too, and compared with this one.
    """
    settings = load(config, overrides) if config else Config()
    results = checks(settings, overwrite=True) + _of_the_cluster(settings)
    if as_json:
        rows = [
            {"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in results
        ]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for check in results:
            mark = "[green]ok  [/]" if check.ok else "[red]FAIL[/]"
            print_line(f"{mark} {check.name}: {escape(check.detail)}")
            if not check.ok:
                print_line(f"       remedy: {escape(check.remedy)}")
    raise typer.Exit(DONE if all(check.ok for check in results) else NOT_FIT)


def _of_the_cluster(config: Config) -> list[Check]:
    if "RAY_ADDRESS" not in os.environ:
        return []
    import ray  # only where there is a cluster to ask

    from cluster.launch import start_ray
    from cluster.node_survey import survey

    start_ray()
    try:
        return survey(config)
    finally:
        ray.shutdown()
