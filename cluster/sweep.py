"""A sweep: runs one after another in one Ray, whose samplers stay up from each to the next.

Starting engines is most of what a short run takes. They are kept where the next run would start
them alike (`cluster.survivors.fit`); everything else of a run is its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray

from cluster.failures import RunFailedError
from cluster.launch import launch
from cluster.placement import MisfitError
from cluster.preflight.nodes import UnfitError
from cluster.run_directory import strict
from cluster.survivors import Survivors, fit
from wfr.config import Config, ConfigError
from wfr.recovery import RecoveryError
from wfr.tasks.rows import FormatError


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """A run of a sweep.

    Attributes:
        summary: as in its `summary.json`; empty where it failed.
        error: why it failed.
    """

    config: Config
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""


def sweep(
    configs: Iterable[Config], *, overwrite: bool = False, quiet: bool = False
) -> Iterator[Ended]:
    """Make the runs in turn, as `launch` makes one; yields each when it has ended.

    One that is done is not made again, and one that was interrupted goes on; with `overwrite` all
    are made anew. One that fails does not end the sweep, one that is told to stop does. The next
    configuration is asked for when the run before it has ended.

    Raises:
        FileExistsError: a run directory holds another run, and `overwrite` was not asked for.
    """
    survivors, shape = Survivors(lasting=True), None
    try:
        for config in configs:
            resume = not overwrite and begun(config)
            if resume and (summary := finished(config)):
                yield Ended(config, summary)
                continue
            if fit(config) != shape:
                asyncio.run(survivors.end())
                shape = fit(config)
            yield (ended := _one(config, survivors, overwrite, resume, quiet))
            if ended.summary.get("status") in ("stopped", "paused"):
                return
    finally:
        asyncio.run(survivors.end())
        ray.shutdown()


def _one(config: Config, survivors: Survivors, overwrite: bool, resume: bool, quiet: bool) -> Ended:
    try:
        summary = launch(
            config, overwrite=overwrite, resume=resume, quiet=quiet, survivors=survivors
        )
        return Ended(config, summary)
    except _FAILURES as error:
        survivors.clear()
        ray.shutdown()  # whatever it was, the next run begins without it
        return Ended(config, error=str(error))


_FAILURES = (RunFailedError, RecoveryError, MisfitError, UnfitError, ConfigError, FormatError)


def begun(config: Config) -> bool:
    """Whether the run directory holds this very run.

    Raises:
        FileExistsError: it holds one of another configuration.
    """
    path = config.run_dir / "config.json"
    if not path.exists():
        return False
    if json.loads(path.read_text(encoding="utf-8")) != strict(config.model_dump(mode="json")):
        raise FileExistsError(
            f"{config.run_dir} holds a run of another configuration; choose another run.name or "
            "pass --overwrite"
        )
    return True


def finished(config: Config) -> dict[str, Any] | None:
    """The summary of the run in the run directory, if it is done."""
    path = config.run_dir / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return summary if summary.get("status") == "done" else None
