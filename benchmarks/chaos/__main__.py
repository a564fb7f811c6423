"""A real run under faults: `python -m benchmarks.chaos --minutes 20 --seed 1`.

A small run (two samplers, two workers, the tiny director) on three raylets of this machine; every 5
to 15 s one process or one whole raylet is killed, frozen, slowed or cut off. At its end the
run has to have reached its steps, its audit has to pass, and nothing may be left. Where root and
the kernel allow, each raylet has a network namespace of its own and is cut off by its cable.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.chaos import figures
from benchmarks.chaos.schedule import draw
from benchmarks.chaos.trial import Outcome, on_machines
from benchmarks.series import CONFIG

_START_S, _SLOWEST = 400.0, 3.0


def main(
    minutes: Annotated[float, typer.Option(min=0.2, help="How long faults go on.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the schedule and of the run.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="The run's target; none: 6 steps a minute.")
    ] = None,
    config: Annotated[Path, typer.Option(help="Configuration of the run.")] = CONFIG,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value over it; repeatable.")
    ] = None,
    network: Annotated[bool, typer.Option(help="Namespaces, where they can be had.")] = True,
    undisturbed: Annotated[bool, typer.Option(help="The same run without faults, too.")] = True,
    out: Annotated[Path, typer.Option(help="Directory of runs and logs.")] = Path("runs/chaos"),
) -> None:
    """Play the run under the schedule of `seed`; exit code 1 where anything is wrong at its end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the machines end with this process
    schedule = draw(seed, minutes * 60)
    typer.echo("\n".join(map(str, schedule)))
    target = steps or max(1, round(minutes * 6))
    settings = (f"train.steps={target}", f"run.seed={seed}", *(setting or ()))
    limit_s = _START_S + _SLOWEST * 60 * minutes
    outcomes = {}
    for name, faults in (("undisturbed", ()), ("chaos", schedule)):
        if faults or undisturbed:
            trial = on_machines(
                *(config, out / name, settings, faults),
                network=network,
                limit_s=limit_s,
                tell=_tell,
            )
            outcomes[name] = asyncio.run(trial)
            _tell_outcome(name, outcomes[name])
    if undisturbed and (worse := _worse(outcomes, out)):
        outcomes["chaos"].wrong.append(worse)
        typer.echo(f"  {worse}")
    if any(outcome.wrong for outcome in outcomes.values()):
        raise typer.Exit(1)


def _worse(outcomes: dict[str, Outcome], out: Path) -> str:
    """What is wrong with the chaos run's exact match beside that of the other."""
    em, other = (outcomes[name].summary.get("em_after", 0.0) for name in ("chaos", "undisturbed"))
    config = json.loads((out / "chaos" / "config.json").read_text("utf-8"))
    if not figures.much_less(em, other, config["tasks"]["eval_tasks"]):
        return ""
    return f"EM {em:.3f} is far below the {other:.3f} of the undisturbed run"


def _tell(text: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {text}")
    sys.stdout.flush()


def _tell_outcome(name: str, outcome: Outcome) -> None:
    typer.echo(f"\n{name}:")
    for figure, value in outcome.figures.items():
        typer.echo(f"  {figure}: {value}")
    for each in outcome.wrong or ["nothing is wrong"]:
        typer.echo(f"  {each}")


if __name__ == "__main__":
    typer.run(main)
