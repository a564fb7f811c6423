"""Launching a run: Ray, signals, and the event loop around `cluster.run.Run`."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from typing import Any

import ray
from prometheus_client import CollectorRegistry

from cluster.exporter import announce, exporter
from cluster.failures import ProcessLostError
from cluster.indexing import index_corpus
from cluster.node_survey import survey
from cluster.offline import OfflineRun
from cluster.preflight.check import explain
from cluster.preflight.nodes import UnfitError
from cluster.progress import Progress
from cluster.resume import fetch, find
from cluster.run import Run
from cluster.run_directory import RunDirectory
from cluster.survivors import Survivors
from cluster.topology import Topology
from cluster.trackers import trackers
from wfr.config import Config
from wfr.metrics import RunMetrics
from wfr.recording import Recording, for_recording
from wfr.report import page


def launch(
    config: Config,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    recording: Recording | None = None,
    survivors: Survivors | None = None,
) -> dict[str, Any]:
    """Run `config` to its end on RAY_ADDRESS, or on a Ray of its own on this machine.

    With a recording there is only a learner, which trains on what was recorded. With `resume` the
    run in the directory goes on, however it ended. A run that has lost a process which nothing
    replaces goes on by itself, `run.restarts` times. Ray ends with it, unless there are
    `survivors`, which serve it: whoever passes them ends them and Ray.

    Raises:
        RunFailedError: the run cannot go on.
        FileExistsError: the run directory holds another run.
        RecoveryError: what is left of the run to resume does not suffice.
        ConfigError: the exporter's port is taken.
        FormatError: the corpus to search is none.
        MisfitError: the cluster has no room for the run.
        UnfitError: machines of the cluster are not fit for it, or not alike.
    """
    own = survivors is None
    up = Survivors() if survivors is None else survivors
    left = config.run.restarts if recording is None else 0
    try:
        while True:
            try:
                return _launch(
                    config,
                    overwrite=overwrite,
                    resume=resume,
                    quiet=quiet,
                    recording=recording,
                    survivors=up if left or up.lasting else None,
                )
            except ProcessLostError as error:
                if not left:
                    raise
                kept = len(up.samplers)
                if not kept:
                    ray.shutdown()  # it may be the one that has died
                    up.clear()
                Progress(name=config.run.name, quiet=quiet).note(
                    f"{error} The run goes on from what it has left ({left} restarts to go)"
                    + (f"; {kept} of its samplers are up." if kept else ".")
                )
                left, overwrite, resume = left - 1, False, True
    finally:
        if own:
            ray.shutdown()


def _launch(
    config: Config,
    *,
    overwrite: bool,
    resume: bool,
    quiet: bool,
    recording: Recording | None,
    survivors: Survivors | None,
) -> dict[str, Any]:
    batches = None
    if recording is not None:
        config, batches = for_recording(config, recording)
    registry = CollectorRegistry()
    with exporter(config.metrics, registry) as address:
        if resume:
            fetch(config, Progress(name=config.run.name, quiet=quiet).note)
        directory = RunDirectory(config, overwrite=overwrite, resume=resume)
        resumption = find(config, directory.path) if resume else None
        progress, found = Progress(name=config.run.name, quiet=quiet), None
        if address:
            progress.note(f"metrics at http://{address}/metrics")
            found = announce(directory.path, address)
        index_corpus(config, progress.note)
        following = ExitStack()
        directory.follow(following.enter_context(trackers(config, directory.path, progress.note)))
        if not ray.is_initialized():
            start_ray()
        try:
            if faults := explain(survey(config)):
                raise UnfitError(faults)
            placing = survivors.placing if survivors is not None else None
            topology = Topology(config, directory.path, placing)
            run: Run | OfflineRun
            if batches is None:
                topology.placing.check()
                registered = RunMetrics(registry)
                run = Run(
                    *(config, directory, topology, progress, registered),
                    resumption=resumption,
                    survivors=survivors,
                )
            else:
                run = OfflineRun(directory, topology, progress, batches)
            return asyncio.run(_supervised(run, progress))
        finally:
            following.close()
            progress.close()
            if found is not None:
                found.unlink(missing_ok=True)
            directory.close()
            _report(directory, progress)


def _report(directory: RunDirectory, progress: Progress) -> None:
    """Write the report, however the run ended; what is wrong with it does not fail the run."""
    try:
        progress.note(f"report: {page.write(directory.path)}")
    except Exception as error:  # noqa: BLE001
        progress.note(
            f"no report: {type(error).__name__}: {error}; try wfr report {directory.path}"
        )


async def _supervised(run: Run | OfflineRun, progress: Progress) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    asked = 0

    def on_signal() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            progress.note("killed")
            os._exit(130)
        progress.note("ending in order: this step, a checkpoint, then out; again to kill")
        run.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return await run.execute()


def start_ray() -> None:
    """Join RAY_ADDRESS, or start a Ray of one's own on this machine."""
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" not in os.environ:
        settings |= {
            "include_dashboard": False,
            "num_cpus": os.cpu_count(),
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(**settings)


_OBJECT_STORE_BYTES = 512 * 2**20
