"""`wfr warmstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.console import BAD_INPUT, ConfigFile, Overrides, fail, load
from wfr.config import ConfigError
from wfr.rejection import rewarded
from wfr.schema import SchemaVersionError
from wfr.trajectory import Trajectory


def warmstart(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Directory to write the checkpoint to.")],
    overrides: Overrides = None,
    journal: Annotated[
        Path | None,
        typer.Option("--from", metavar="JOURNAL", help="Learn from a journal's episodes instead."),
    ] = None,
    min_reward: Annotated[
        float | None, typer.Option(help="Keep the journal's episodes with at least this reward.")
    ] = None,
) -> None:
    """Build the tiny director and teach it the protocol on scripted demonstrations.

    `wfr train` does this by itself where model.path is empty; use this command to keep the result
    and start several runs from it with --set model.path=DIR.

    With --from the demonstrations are the rewarded episodes of a run (rejection sampling), and the
    director is the one of model.path, which needs the tokenizer that the episodes were sampled
    with.

    Examples:
      wfr warmstart cluster/configs/quickstart.yaml --out base
      wfr warmstart my.yaml --out better --from runs/quickstart --min-reward 1
    """
    if (journal is None) != (min_reward is None):
        fail(BAD_INPUT, "--from JOURNAL and --min-reward R belong together")
    settings = load(config, overrides)
    kept = _kept(journal, min_reward)
    from cluster.progress import Progress
    from learner.warmstart import warmstart as build

    progress = Progress()
    steps = settings.warmstart.steps
    try:
        result = build(
            settings, out, lambda step, loss: progress.warmstart(step, steps, loss), kept
        )
    except ConfigError as error:
        fail(BAD_INPUT, f"--from: {error}")
    finally:
        progress.close()
    typer.echo(f"{result.path}: loss {result.loss:.3f} after {result.steps} steps")


def _kept(journal: Path | None, min_reward: float | None) -> list[Trajectory]:
    if journal is None or min_reward is None:
        return []
    try:
        kept = rewarded(journal, min_reward)
    except (ConfigError, SchemaVersionError) as error:
        fail(BAD_INPUT, f"--from: {error}")
    typer.echo(f"{len(kept)} different episodes with a reward of at least {min_reward:g}", err=True)
    return kept
