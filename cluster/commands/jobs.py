"""`wfr jobs`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.console import BAD_INPUT, FAILED, AsJson, fail, print_line

if TYPE_CHECKING:
    from cluster.jobs import Jobs

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        help="The cluster's job server, for example http://127.0.0.1:8265.",
    ),
]
JobId = Annotated[str, typer.Argument(help="Id of the job; `wfr jobs list` shows them.")]

jobs = typer.Typer(help="Runs that were submitted to a Ray cluster.", no_args_is_help=True)


@jobs.command("list")
def list_jobs(address: Address, as_json: AsJson = False) -> None:
    """Show the runs that were submitted to a cluster, newest first."""
    with _refusing():
        rows = _connect(address).all()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("job", "status", "since", "run directory")
    for row in rows:
        begun = row["start"]
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(begun)) if begun else ""
        table.add_row(row["id"], row["status"].lower(), since, row["directory"])
    Console().print(table)


@jobs.command()
def status(job: JobId, address: Address, as_json: AsJson = False) -> None:
    """Show one run's state; exit code 1 where it has failed."""
    with _refusing():
        row = _connect(address).find(job)
    if as_json:
        typer.echo(json.dumps(row, indent=2))
    else:
        print_line(f"{row['id']}: {row['status'].lower()}; results in {row['directory']}")
        if row["message"]:
            Console().print(row["message"], markup=False, highlight=False)
    if row["status"] == "FAILED":
        raise typer.Exit(FAILED)


@jobs.command()
def logs(
    job: JobId,
    address: Address,
    wait: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
) -> None:
    """Print what a run has printed."""
    with _refusing():
        connected = _connect(address)
        if wait:
            follow(connected, job)
        else:
            typer.echo(connected.logs(job), nl=False)


@jobs.command()
def stop(job: JobId, address: Address) -> None:
    """Ask a run to finish its step, write a checkpoint and end; `wfr submit --resume` goes on."""
    with _refusing():
        _connect(address).stop(job)
    print_line(f"{job} was asked to end; `wfr jobs status {job}` says when it has")


def follow(connected: Jobs, job: str) -> None:
    """Print a job's log until it has ended; exit code 1 where it did not succeed."""

    async def show() -> None:
        async for text in connected.follow(job):
            typer.echo(text, nl=False)

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        print_line(f"no longer following; {job} goes on")
        return
    row = connected.find(job)
    if row["status"] != "SUCCEEDED":
        fail(FAILED, f"{job}: {row['status'].lower()}. {row['message']}".strip())


def _connect(address: str) -> Jobs:
    from cluster.jobs import connect

    return connect(address)


@contextmanager
def _refusing() -> Iterator[None]:
    from cluster.jobs import SubmissionError

    try:
        yield
    except SubmissionError as error:
        fail(BAD_INPUT, str(error))
