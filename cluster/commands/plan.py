"""`wfr plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.commands.plan_placement import show_placement
from cluster.console import BAD_INPUT, AsJson, Overrides, fail, load
from cluster.run_directory import strict
from wfr.config import ConfigError
from wfr.planner import sweeps
from wfr.planner.calibration import calibrate
from wfr.planner.forecast import forecast
from wfr.planner.outcome import Outcome
from wfr.planner.recorded_run import Recorded, RecordedRun
from wfr.planner.scenario import Scenario
from wfr.planner.scenario_file import load_scenario, parse_scenario
from wfr.planner.tuning import tuned
from wfr.planner.workload import Workload


def plan(  # noqa: PLR0913 (one argument per option)
    simulate: Annotated[
        Path | None,
        typer.Option(metavar="SCENARIO", help="YAML file of machines, rates and episodes."),
    ] = None,
    journal: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="A run's directory: its episodes, and its rates where there is no SCENARIO. "
            "Give a synchronous and an asynchronous one to learn how roles slow each other down.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="A run: what of it would be placed where."),
    ] = None,
    machines: Annotated[
        list[str] | None,
        typer.Option(
            "--machines",
            metavar="MACHINES",
            help="With --config: machines as COUNTx KEY=VALUE,...; keys are gpu, cpu, and labels. "
            "None: the cluster at RAY_ADDRESS, or this machine.",
        ),
    ] = None,
    overrides: Overrides = None,
    lags: Annotated[bool, typer.Option("--lags", help="Try other values of max_lag too.")] = False,
    split: Annotated[
        bool, typer.Option("--split", help="Look for the best split into samplers and learner.")
    ] = False,
    hours: Annotated[float, typer.Option(min=0.001, help="Simulated time.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Predict what a run does, and where, on machines that need not exist.

    By simulation: steps per hour, tokens/s, the lag of turns, what every role waits for, the cost.
    With --config: which process gets which machine; what does not fit is refused (exit code 3).

    Examples:
      wfr plan --simulate cluster/configs/plans/8b_director.yaml
      wfr plan --simulate cluster/configs/plans/8b_director.yaml --split --lags
      wfr plan --simulate cluster/configs/plans/8b_director.yaml --set training.max_lag=0 --json
      wfr plan --journal runs/quickstart --set training.max_lag=8
      wfr plan --config run.yaml --machines "2x gpu=8,cpu=96" --machines "4x cpu=64,pool=cpu"
      wfr plan --config run.yaml --set sampler.count=12
    """
    if config is not None:
        if simulate or journal:
            fail(BAD_INPUT, "--config places a run, --simulate and --journal predict one: choose")
        show_placement(load(config, overrides), machines or [], as_json=as_json)
        return
    try:
        settings, workload = _inputs(simulate, journal or [], overrides or [])

        def predict(each: Scenario) -> Outcome:
            return forecast(each, workload, hours=hours, seed=seed)

        found: dict[str, Any] = {"prediction": predict(settings)}
        if split:
            found["splits"] = sweeps.splits(settings, predict)
        if lags:
            found["lags"] = dict(sweeps.lags(settings, predict))
    except (ConfigError, ValueError) as error:
        fail(BAD_INPUT, str(error))
    if as_json:
        typer.echo(json.dumps(strict(_plain(settings, found)), indent=2))
    else:
        _show(settings, found)


def _inputs(
    simulate: Path | None, journals: list[Path], overrides: list[str]
) -> tuple[Scenario, Workload | None]:
    """What is to be simulated, and episodes where they were recorded."""
    if simulate is None and not journals:
        raise ConfigError(
            "nothing to simulate: give --simulate SCENARIO, --journal RUN, or both; "
            "or --config CONFIG"
        )
    runs = [RecordedRun.read(path) for path in journals]
    if simulate is None:
        values = tuned(calibrate(runs), runs).model_dump()
        settings = parse_scenario(values, f"scenario of {journals[0]}", overrides)
    else:
        settings = load_scenario(simulate, overrides)
    if runs and settings.episodes is not None:
        raise ConfigError(
            f"{simulate}: the section `episodes` contradicts --journal {journals[0]}, where they "
            "were recorded; leave one of them out, or --set episodes="
        )
    return settings, Recorded(runs, settings.operators) if runs else None


def _plain(settings: Scenario, found: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {"scenario": settings.model_dump(mode="json", exclude_defaults=True)}
    for name, value in found.items():
        if isinstance(value, Outcome):
            plain[name] = value.record()
        else:
            plain[name] = {str(key): outcome.record() for key, outcome in value.items()}
    return plain


def _show(settings: Scenario, found: dict[str, Any]) -> None:
    console = Console()
    outcome: Outcome = found["prediction"]
    console.print(_figures(settings, outcome))
    console.print(_roles(outcome))
    console.print(_turn_lags(outcome))
    if "splits" in found:
        top = sweeps.best(found["splits"])
        rows = {
            f"{count} : {sweeps.split(settings, count).learner.gpus}": each
            for count, each in found["splits"].items()
        }
        console.print(_sweep("samplers : GPUs of the learner", rows))
        best = f"{top} samplers, {sweeps.split(settings, top).learner.gpus} GPUs of the learner"
        console.print(f"most steps per hour: {best}", highlight=False)
    if "lags" in found:
        rows = {str(lag): each for lag, each in found["lags"].items()}
        console.print(_sweep("max_lag", rows))
    if outcome.slice > 1:
        console.print(
            f"One of {outcome.slice} equal slices was simulated and stands for the whole; see "
            "docs/planner.md.",
            highlight=False,
        )
    console.print("A prediction: it is as good as the rates in the file.", highlight=False)


def _figures(settings: Scenario, outcome: Outcome) -> Table:
    table = Table("", "predicted", title=settings.name)
    table.add_row("steps per hour", f"{outcome.steps_per_hour:.4g}")
    table.add_row("policy tokens per second", f"{outcome.tokens_per_s:.4g}")
    table.add_row("trajectories per second", f"{outcome.trajectories_per_s:.4g}")
    table.add_row("requests in one sampler, mean", f"{outcome.requests:.4g}")
    table.add_row("lag of turns, mean", f"{outcome.mean_lag:.3g} steps")
    if outcome.usd_per_hour:
        table.add_row("cost per hour", f"{outcome.usd_per_hour:,.2f} USD")
        table.add_row("cost per step", f"{outcome.usd_per_step:,.4g} USD")
    for name, used in outcome.operators.items():
        places = settings.operators[name].places
        told = f"{used:.0%} of {places} places" if places else f"{used:.4g} calls at once"
        table.add_row(f"operator {name}", told)
    return table


def _roles(outcome: Outcome) -> Table:
    table = Table("where the time goes", "share")
    roles = {
        "learner": outcome.learner,
        "samplers": outcome.samplers,
        "episodes": outcome.episodes,
    }
    for role, shares in roles.items():
        for phase, share in shares.items():
            table.add_row(f"{role}: {_PHASES[role, phase]}", f"{share:.1%}")
        table.add_section()
    return table


_PHASES = {
    ("learner", "train"): "trains",
    ("learner", "groups"): "waits for groups",
    ("learner", "publish"): "waits for a publication",
    ("samplers", "decode"): "decode",
    ("samplers", "prefill"): "read prompts",
    ("samplers", "paused"): "hold still for new weights",
    ("samplers", "idle"): "have no request",
    ("episodes", "place"): "wait for a place in a sampler",
    ("episodes", "sampling"): "are sampled",
    ("episodes", "operator place"): "wait for a place at an operator",
    ("episodes", "operator"): "wait for an operator's answer",
    ("episodes", "own"): "do their worker's own work",
}


def _turn_lags(outcome: Outcome) -> Table:
    table = Table("lag of turns, in steps", "share")
    total = sum(outcome.turn_lags.values())
    for lag, turns in outcome.turn_lags.items():
        table.add_row(str(lag), f"{turns / total:.1%}")
    return table


def _sweep(title: str, rows: dict[str, Outcome]) -> Table:
    table = Table(
        title, "steps/h", "tokens/s", "lag", "learner trains", "samplers idle", "USD/step"
    )
    for name, each in rows.items():
        table.add_row(
            name,
            f"{each.steps_per_hour:.4g}",
            f"{each.tokens_per_s:.4g}",
            f"{each.mean_lag:.2f}",
            f"{each.learner['train']:.0%}",
            f"{each.samplers['idle']:.0%}",
            f"{each.usd_per_step:.4g}",
        )
    return table
