"""Every question that is asked before a run starts."""

from __future__ import annotations

from cluster.preflight.canvas import Encode, context_checks, reach_check
from cluster.preflight.check import Check
from cluster.preflight.director import model_checks
from cluster.preflight.executors import executor_check
from cluster.preflight.installation import installation_checks, tracker_check
from cluster.preflight.machine import machine_checks
from cluster.preflight.run import (
    corpus_check,
    directory_check,
    operator_check,
    store_check,
    task_check,
)
from wfr.config import Config


def checks(config: Config, *, overwrite: bool = False, resume: bool = False) -> list[Check]:
    """Ask everything; `overwrite`: the run directory will be replaced, so its content is no fault.

    `resume`: the run in it goes on.

    Example:
        failing = explain(checks(config))
        if failing:
            raise SystemExit(...)  # exit code 3
    """
    played = [
        *model_checks(config.model.path),
        task_check(config),
        corpus_check(config),
        operator_check(config),
    ]
    return [
        *installation_checks(),
        *machine_checks(config),
        executor_check(config),
        tracker_check(config.metrics.trackers),
        *played,
        *(_canvas_checks(config) if all(check.ok for check in played) else ()),
        *store_check(config),
        directory_check(config, overwrite=overwrite, resume=resume),
    ]


def _canvas_checks(config: Config) -> list[Check]:
    return [reach_check(config), *context_checks(config, _encoder)]


def _encoder(path: str) -> Encode:
    from actors.render import Renderer

    return Renderer(path).prompt
