"""`wfr warmstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.console import ConfigFile, Overrides, load


def warmstart(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Directory to write the checkpoint to.")],
    overrides: Overrides = None,
) -> None:
    """Build the tiny director and teach it the protocol on scripted demonstrations.

    `wfr train` does this by itself where model.path is empty; use this command to keep the result
    and start several runs from it with --set model.path=DIR.
    """
    settings = load(config, overrides)
    from cluster.progress import Progress
    from learner.warmstart import warmstart as build

    progress = Progress()
    steps = settings.warmstart.steps
    result = build(settings, out, lambda step, loss: progress.warmstart(step, steps, loss))
    progress.close()
    typer.echo(f"{result.path}: loss {result.loss:.3f} after {result.steps} steps")
