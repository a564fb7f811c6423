"""`wfr train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.console import BAD_INPUT, FAILED, NOT_FIT, AsJson, ConfigFile, Overrides, fail, load
from cluster.placement import MisfitError
from cluster.preflight import checks, explain
from cluster.preflight.nodes import UnfitError
from wfr.config import Config, ConfigError, written_lines
from wfr.recording import Recording
from wfr.schema import SchemaVersionError
from wfr.tasks.rows import FormatError
from wfr.yaml_lines import place_of

Overwrite = Annotated[bool, typer.Option(help="Replace the run that the run directory holds.")]
Resume = Annotated[
    bool, typer.Option(help="Go on with the run in the run directory, however it ended.")
]

Offline = Annotated[
    Path | None,
    typer.Option(
        metavar="JOURNAL",
        help="Train on a journal alone; given a run directory, repeat that run's batches.",
    ),
]


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    offline: Offline = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a director: sample, act, learn and publish, all at once.

    Writes runs/NAME/ with config.json, metrics.jsonl, journal/, checkpoints/ and summary.json.
    Ctrl-C ends the run in order, with a checkpoint; a second one kills it. --resume goes on after
    either, and after a crash.

    Examples:
      wfr train cluster/configs/quickstart.yaml
      wfr train cluster/configs/quickstart.yaml --set buffer.max_lag=0 --set run.name=synchronous
      wfr train cluster/configs/quickstart.yaml --set run.name=again --offline runs/quickstart
      wfr train runs/quickstart --resume
    """
    if resume and overwrite:
        fail(BAD_INPUT, "--resume goes on with a run and --overwrite replaces it: choose one")
    if config.is_dir():
        config = config / "config.json"
    settings = load(config, overrides)
    recording = _recording(offline)
    lines = written_lines(config, overrides or ())
    preflight(
        settings,
        lambda key: place_of(config, key.split("."), lines),
        overwrite=overwrite,
        resume=resume,
    )
    from cluster.failures import RunFailedError
    from cluster.launch import launch
    from wfr.recovery import RecoveryError

    try:
        summary = launch(
            settings,
            overwrite=overwrite,
            resume=resume,
            quiet=as_json,
            recording=recording,
        )
    except FileExistsError as error:
        fail(BAD_INPUT, str(error))
    except FormatError as error:
        fail(BAD_INPUT, f"environment.search.corpus: {error}")
    except (ConfigError, MisfitError, UnfitError) as error:
        fail(NOT_FIT, str(error))
    except (RunFailedError, RecoveryError) as error:
        fail(FAILED, str(error))
    _show(summary, as_json=as_json)


def _recording(offline: Path | None) -> Recording | None:
    if offline is None:
        return None
    try:
        return Recording(offline)
    except (ConfigError, SchemaVersionError) as error:
        fail(BAD_INPUT, f"--offline: {error}")


def preflight(
    config: Config, place: Callable[[str], str], *, overwrite: bool, resume: bool
) -> None:
    """Ask whether this machine is fit for the run; end the command where it is not."""
    results = checks(config, overwrite=overwrite, resume=resume)
    faults = explain(results, place)
    if faults:
        failing = {check.name for check in results if not check.ok}
        fail(BAD_INPUT if failing <= _OF_THE_INPUT else NOT_FIT, faults)


_OF_THE_INPUT = frozenset(
    {
        *("executors", "tasks", "corpus", "operators", "workflows", "contexts"),
        *("model", "tokenizer", "run directory", "checkpoint store"),
    }
)
"""Checks that fail for what a user wrote, not for the machine."""


def _show(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    if summary.get("offline"):
        typer.echo(
            f"run {summary['name']}: {summary['status']}, {summary['steps']} of "
            f"{summary['batches']} recorded batches, lag at most {summary['max_lag_seen']}"
        )
        return
    if summary["status"] == "paused":
        typer.echo(
            f"run {summary['name']}: paused, because {summary['reason']}; raise it and resume"
        )
        return
    if "em_before" not in summary:
        typer.echo(f"run {summary['name']}: stopped before it began to train")
        return
    table = Table("", "before", "after", title=f"run {summary['name']}: {summary['status']}")
    table.add_row("exact match", f"{summary['em_before']:.3f}", f"{summary['em_after']:.3f}")
    table.add_row("reward", f"{summary['reward_before']:+.3f}", f"{summary['reward_after']:+.3f}")
    for skill, after in summary["skills_after"].items():
        before = summary["skills_before"].get(skill, float("nan"))
        table.add_row(f"  {skill}", f"{before:.3f}", f"{after:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{summary['steps']} steps in {summary['rl_seconds']:.0f} s "
        f"({summary['wall_seconds']:.0f} s in all), lag at most {summary['max_lag_seen']} of "
        f"{summary['max_lag']}, {summary['tokens_generated']} tokens generated, "
        f"{summary['tokens_consumed']} consumed, peak memory {summary['peak_memory_gib']} GiB",
        highlight=False,
    )
