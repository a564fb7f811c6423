"""The command line: `wfr train`, `wfr doctor`, `wfr warmstart`.

Exit codes: 0 done, 1 the run failed, 2 bad input, 3 this machine is not fit for the run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.preflight import checks, explain
from wfr.config import Config, ConfigError, load_config

DONE, FAILED, BAD_INPUT, NOT_FIT = 0, 1, 2, 3

app = typer.Typer(
    help="WFR trains language-model directors that solve tasks by building workflows turn by turn.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path, typer.Argument(help="YAML file of the run; see docs/configuration.md.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. buffer.max_lag=0."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the run that the run directory holds.")]


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a director: sample, act, learn and publish, all at once.

    Writes runs/NAME/ with config.json, metrics.jsonl, journal/, checkpoints/ and summary.json.
    Ctrl-C ends the run in order, with a checkpoint; a second one kills it.

    Examples:
      wfr train cluster/configs/quickstart.yaml
      wfr train cluster/configs/quickstart.yaml --set buffer.max_lag=0 --set run.name=synchronous
    """
    settings = _load(config, overrides)
    _preflight(settings, overwrite=overwrite)
    from cluster.launch import launch
    from cluster.run import RunFailedError

    try:
        summary = launch(settings, overwrite=overwrite, quiet=as_json)
    except FileExistsError as error:
        _fail(BAD_INPUT, str(error))
    except ConfigError as error:
        _fail(NOT_FIT, str(error))
    except RunFailedError as error:
        _fail(FAILED, str(error))
    _show(summary, as_json=as_json)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="Check for this run; none: defaults.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Ask whether this machine and installation are fit for a run, and what to do if not."""
    results = checks(_load(config, overrides) if config else Config(), overwrite=True)
    if as_json:
        rows = [
            {"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in results
        ]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for check in results:
            mark = "[green]ok  [/]" if check.ok else "[red]FAIL[/]"
            _print(f"{mark} {check.name}: {escape(check.detail)}")
            if not check.ok:
                _print(f"       remedy: {escape(check.remedy)}")
    raise typer.Exit(DONE if all(check.ok for check in results) else NOT_FIT)


@app.command()
def warmstart(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Directory to write the checkpoint to.")],
    overrides: Overrides = None,
) -> None:
    """Build the tiny director and teach it the protocol on scripted demonstrations.

    `wfr train` does this by itself where model.path is empty; use this command to keep the result
    and start several runs from it with --set model.path=DIR.
    """
    settings = _load(config, overrides)
    from cluster.progress import Progress
    from learner.warmstart import warmstart as build

    progress = Progress()
    steps = settings.warmstart.steps
    result = build(settings, out, lambda step, loss: progress.warmstart(step, steps, loss))
    progress.close()
    typer.echo(f"{result.path}: loss {result.loss:.3f} after {result.steps} steps")


def _load(path: Path, overrides: list[str] | None) -> Config:
    try:
        return load_config(path, overrides or ())
    except ConfigError as error:
        _fail(BAD_INPUT, str(error))


def _preflight(config: Config, *, overwrite: bool) -> None:
    results = checks(config, overwrite=overwrite)
    faults = explain(results)
    if faults:
        bad_input = {"tasks", "model", "tokenizer", "run directory"}
        failing = {check.name for check in results if not check.ok}
        _fail(BAD_INPUT if failing <= bad_input else NOT_FIT, faults)


def _fail(code: int, message: str) -> NoReturn:
    Console(stderr=True).print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _print(markup: str) -> None:
    """One line, however long: paths and commands have to stay whole."""
    Console().print(markup, highlight=False, soft_wrap=True)


def _show(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    if "em_before" not in summary:
        typer.echo(f"run {summary['name']}: stopped before it began to train")
        return
    table = Table("", "before", "after", title=f"run {summary['name']}: {summary['status']}")
    table.add_row("exact match", f"{summary['em_before']:.3f}", f"{summary['em_after']:.3f}")
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


def main() -> None:
    """Entry point of the console command."""
    app()


if __name__ == "__main__":
    main()
