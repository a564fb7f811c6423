"""`wfr submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.jobs import Address, follow
from cluster.commands.train import Overwrite, Resume
from cluster.console import BAD_INPUT, AsJson, ConfigFile, Overrides, fail, load, print_line

WorkingDir = Annotated[
    Path, typer.Option(file_okay=False, exists=True, help="What travels to the cluster.")
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME=VALUE",
        help="Environment variable of the driver and every role. Never a secret: all who see the "
        "dashboard can read it.",
    ),
]


def submit(  # noqa: PLR0913  # options of a command
    config: ConfigFile,
    address: Address,
    overrides: Overrides = None,
    working_dir: WorkingDir = Path(),
    env: Env = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    wait: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Print the run's log until it ends.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Run a configuration as a job of a Ray cluster.

    The configuration is checked here, the working directory is uploaded, and `wfr train` runs on
    the cluster's head. Ctrl-C only stops following; the job goes on. Needs no torch and no vLLM
    on this machine. `ray job submit --working-dir . -- wfr train CONFIG` does the same by hand.

    Examples:
      wfr submit run.yaml --address http://127.0.0.1:8265 --set run.dir=/mnt/shared/runs
      wfr submit run.yaml --address http://127.0.0.1:8265 --set run.dir=/mnt/shared/runs --resume
      wfr jobs list --address http://127.0.0.1:8265
    """
    from cluster.jobs import Submission, SubmissionError, connect

    if resume and overwrite:
        fail(BAD_INPUT, "--resume goes on with a run and --overwrite replaces it: choose one")
    submission = Submission(
        working_dir=working_dir,
        config=config,
        settings=load(config, overrides),
        overrides=overrides or (),
        options=["--resume"] * resume + ["--overwrite"] * overwrite,
        environment=dict(map(_variable, env or ())),
    )
    try:
        submission.check()
        jobs = connect(address)
        submitted = jobs.submit(submission)
    except SubmissionError as error:
        fail(BAD_INPUT, str(error))
    if as_json:
        typer.echo(json.dumps(jobs.find(submitted)))
        return
    print_line(f"job {submitted}: results in {submission.settings.run_dir}")
    print_line(f"to end it in order: wfr jobs stop {submitted} --address {address}")
    if wait:
        follow(jobs, submitted)


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        fail(BAD_INPUT, f"--env {name}: expected NAME=VALUE")
    return name, value
