"""`wfr eval`, and `wfr eval compare`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from actors.worker import RepeatedFailureError
from cluster.checkpoints import checkpoint_of
from cluster.console import BAD_INPUT, FAILED, AsJson, ConfigFile, Overrides, fail, load
from cluster.indexing import index_corpus
from wfr.backends.base import BackendConfigError
from wfr.config import Config, ConfigError
from wfr.evaluation.datasets import datasets
from wfr.evaluation.policies.base import PolicyError, Setting
from wfr.evaluation.policies.registry import NAMES, make_policies
from wfr.evaluation.programs import evaluate_programs
from wfr.evaluation.report import ReportDirectory, read_predictions
from wfr.evaluation.summary import compare_runs
from wfr.evaluation.table import markdown
from wfr.operators.library import LibraryError
from wfr.tasks.registry import make_source

UNTRAINED = "untrained"
_EXPECTED = (BackendConfigError, ConnectionError, RepeatedFailureError, ValueError)


class _RunByDefault(TyperGroup):
    """`wfr eval CONFIG` is `wfr eval run CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


evaluation = typer.Typer(
    cls=_RunByDefault,
    help="Evaluate policies: wfr eval CONFIG --policy NAME; wfr eval compare A B.",
    no_args_is_help=True,
)

Policies = Annotated[
    list[str],
    typer.Option(
        "--policy",
        metavar="CHECKPOINT|NAME",
        help=f"A checkpoint, a run directory (its newest one), {UNTRAINED}, {', '.join(NAMES)}.",
    ),
]
Samples = Annotated[int, typer.Option(min=0, help="Samples per task besides the greedy one.")]
Temperature = Annotated[float, typer.Option(min=0.01, help="Temperature of the samples.")]
Out = Annotated[
    Path | None, typer.Option(help="Directory of the results; none: RUN-eval beside the run.")
]


@evaluation.command("run")
def run(
    config: ConfigFile,
    policy: Policies,
    overrides: Overrides = None,
    samples: Samples = 0,
    temperature: Temperature = 1.0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Play the held-out tasks of every dataset with each policy, and write a table.

    Predictions that are already in the directory are not made again.

    Examples:
      wfr eval cluster/configs/canvas_quickstart.yaml --policy direct --policy heuristic
      wfr eval cluster/configs/quickstart.yaml --policy runs/quickstart --samples 8
    """
    settings = load(config, overrides)
    programs = [name for name in dict.fromkeys(policy) if name in NAMES]
    checkpoints = {n: _checkpoint(n, settings) for n in dict.fromkeys(policy) if n not in NAMES}
    found = _checked(settings, programs)
    try:
        index_corpus(settings, _note)
    except ValueError as error:
        fail(BAD_INPUT, f"environment.search.corpus: {error}")
    try:
        report = ReportDirectory(out or settings.run_dir.with_name(_eval_name(settings)), settings)
    except ValueError as error:
        fail(BAD_INPUT, str(error))
    try:
        _play(settings, found, programs, report)
        for name, path in checkpoints.items():
            label = name if name == UNTRAINED else str(path)
            _play_checkpoint(settings, found, label, path, (samples, temperature), report)
    except (*_EXPECTED, BaseExceptionGroup) as error:
        cause = _cause(error)
        if not isinstance(cause, _EXPECTED):
            raise
        lost = (
            f" See {report.path / 'work' / 'logs'}." if isinstance(cause, ConnectionError) else ""
        )
        fail(FAILED, f"{cause}{lost}")
    summaries = report.write(f"Evaluation of {settings.run.name}")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(item) for item in summaries], indent=2))
    else:
        typer.echo(markdown(summaries))
        typer.echo(f"{report.path}: predictions.jsonl, table.md, table.html")


@evaluation.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="DIRECTORY or DIRECTORY:POLICY.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same for the other one.")],
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations on the tasks that both have: B − A, its interval, its p-value.

    Example:
      wfr eval compare runs/quickstart-eval:direct runs/quickstart-eval:fixed_workflow
    """
    try:
        found = compare_runs(read_predictions(first), read_predictions(second))
    except ValueError as error:
        fail(BAD_INPUT, str(error))
    if as_json:
        typer.echo(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}, indent=2))
        return
    typer.echo("| dataset | tasks | B − A [95 %] | p | B better | B worse |")
    typer.echo("|---|---|---|---|---|---|")
    for dataset, item in found.items():
        typer.echo(
            f"| {dataset} | {item.difference.count} | {item.difference} | {item.p_value:.4f} | "
            f"{item.wins} | {item.losses} |"
        )


def _eval_name(config: Config) -> str:
    return f"{config.run.name}-eval"


def _checkpoint(name: str, config: Config) -> Path:
    wanted = name
    if name == UNTRAINED:
        wanted = config.model.path or str(config.run_dir / "base")
    try:
        return checkpoint_of(Path(wanted))
    except ConfigError as error:
        known = f"{UNTRAINED}, {', '.join(NAMES)}"
        fail(BAD_INPUT, f"--policy {name}: {error}; policies by name: {known}")


def _checked(config: Config, programs: list[str]) -> dict[str, Config]:
    """The datasets, after every one and every policy was found fit."""
    if programs and config.executor.serve is not None:
        fail(
            BAD_INPUT,
            f"policies {', '.join(programs)} ask an executor that already runs; name its backend "
            "instead of executor.serve",
        )
    try:
        setting = Setting.of(config)
        for name in programs:
            make_policies(name, setting)
        found = datasets(config)
        for dataset, settings in found.items():
            if not make_source(settings).held_out():
                fail(BAD_INPUT, f"{dataset}: no task is held out")
    except (PolicyError, LibraryError, ValueError) as error:
        fail(BAD_INPUT, str(error))
    return found


def _play(
    config: Config, found: dict[str, Config], programs: list[str], report: ReportDirectory
) -> None:
    if not programs:
        return
    from wfr.backends.hub import Hub

    cache = None
    if not set(config.executor.used) <= {"rule_based"}:
        from cluster.hub import open_cache

        cache = open_cache(config.executor, report.path)

    async def play() -> None:
        hub = Hub(config.executor, cache)
        for dataset, settings in found.items():
            await evaluate_programs(
                settings, dataset, programs, report.predictions, hub=hub, note=_note
            )

    asyncio.run(play())


def _play_checkpoint(
    config: Config,
    found: dict[str, Config],
    label: str,
    path: Path,
    sampled: tuple[int, float],
    report: ReportDirectory,
) -> None:
    from cluster.playing import draws, play_checkpoint

    work = report.path.resolve() / "work"
    play_checkpoint(config, found, path, draws(label, *sampled), report.predictions, work, _note)


def _cause(error: BaseException) -> BaseException:
    """The first error in a group, however deep it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _note(text: str) -> None:
    typer.echo(text, err=True)
