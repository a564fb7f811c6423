"""The command line: `wfr COMMAND`; each command has its file in `cluster.commands`."""

from __future__ import annotations

import typer

from cluster.commands.audit import audit
from cluster.commands.cache import cache
from cluster.commands.data import data
from cluster.commands.doctor import doctor
from cluster.commands.eval import evaluation
from cluster.commands.inspect import inspect
from cluster.commands.jobs import jobs
from cluster.commands.plan import plan
from cluster.commands.report import report
from cluster.commands.serve import serving
from cluster.commands.submit import submit
from cluster.commands.sweep import sweep
from cluster.commands.train import train
from cluster.commands.warmstart import warmstart

app = typer.Typer(
    help="WFR trains language-model directors that solve tasks by building workflows turn by turn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, sweep, submit, audit, report, inspect, plan, doctor, warmstart, cache):
    app.command()(command)
app.add_typer(jobs, name="jobs")
app.add_typer(data, name="data")
app.add_typer(evaluation, name="eval")
app.add_typer(serving, name="serve")


def main() -> None:
    """Entry point of the console command."""
    app()


if __name__ == "__main__":
    main()
