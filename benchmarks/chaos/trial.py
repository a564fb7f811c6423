"""One run of `wfr train` on the machines, with faults or without, and what is wrong with it."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos import figures, leftovers
from benchmarks.chaos.faults import Faults
from benchmarks.chaos.machines import Machines
from benchmarks.chaos.network import Bridge, NoNetworkError
from benchmarks.chaos.schedule import Fault
from wfr.audit import AuditError, audit

SETTINGS = (
    *("sampler.count=2", "rollout.workers=2", "run.restarts=50", "train.checkpoint_every=5"),
    *("supervision.heartbeat_s=1", "supervision.silent_s=12", "supervision.stall_s=15"),
    *("supervision.start_s=300", "supervision.restart_s=240", "supervision.retries=15"),
    *("supervision.quarantine_s=60", "sampler.update_timeout_s=30"),
    "learner.collective_timeout_s=30",
)
"""A run that expects trouble."""

MACHINES = 2
_LOOK_S = 0.5


@dataclasses.dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        wrong: what should not be, each in a sentence; empty: all is well.
        figures: what was measured, for people.
        summary: what the run says of itself; empty where it has not come so far.
        done: the faults that were carried out, each with its `time.time()`.
    """

    wrong: list[str]
    figures: dict[str, str]
    summary: dict[str, Any]
    done: list[tuple[float, Fault]]


async def on_machines(
    config: Path,
    run: Path,
    settings: Sequence[str],
    schedule: Sequence[Fault],
    *,
    network: bool,
    limit_s: float,
    tell: Callable[[str], None],
    rest_s: float | None = None,
) -> Outcome:
    """Play `config` in the directory `run`, which is emptied, on machines made for it.

    `network`: in namespaces, where they can be had. `rest_s`: so long after the last fault the run
    is told to end, wherever it is; without, it has to reach its target.
    """
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    bridge = _bridge(tell) if network else None
    with tempfile.TemporaryDirectory(prefix="wfr", ignore_cleanup_errors=True) as directory:
        try:
            machines = Machines(MACHINES, bridge, Path(directory))
            try:
                return await play(
                    machines,
                    config.resolve(),
                    run.resolve(),
                    settings=settings,
                    schedule=schedule,
                    tell=tell,
                    limit_s=limit_s,
                    rest_s=rest_s,
                )
            finally:
                machines.close()
        finally:
            if bridge is not None:
                bridge.close()


def _bridge(tell: Callable[[str], None]) -> Bridge | None:
    try:
        return Bridge()
    except NoNetworkError as error:
        tell(f"all machines share the loopback, no network namespaces: {error}")
        return None


async def play(
    machines: Machines,
    config: Path,
    run: Path,
    *,
    settings: Sequence[str],
    schedule: Sequence[Fault],
    tell: Callable[[str], None],
    limit_s: float,
    rest_s: float | None,
) -> Outcome:
    """Run to the end, faults from the first step on; after `limit_s` seconds it is ended."""
    target = rest_s is None
    faults = Faults(machines, tell)
    command = [sys.executable, "-m", "cluster.cli", "train", str(config)]
    for setting in (*SETTINGS, f"run.dir={run.parent}", f"run.name={run.name}", *settings):
        command += ["--set", setting]
    log = run.parent / f"{run.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=machines.environment()
        )
    tasks = [asyncio.create_task(faults.keep_up())]
    wrong = []
    try:
        async with asyncio.timeout(limit_s):
            while process.poll() is None:
                await asyncio.sleep(_LOOK_S)
                if len(tasks) == 1 and figures.times_of(read(run), "step"):
                    tell("the first step; the faults begin")
                    tasks.append(asyncio.create_task(faults.carry_out(schedule)))
                if rest_s is not None and tasks[1:] and tasks[1].done():
                    await asyncio.sleep(rest_s)
                    process.terminate()
                    rest_s = None
    except TimeoutError:
        wrong.append(f"the run had not ended after {limit_s:.0f} s")
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        if process.poll() is None:
            process.kill()
            process.wait()
    wrong += [f"a fault could not be done: {e!r}" for e in ended if isinstance(e, Exception)]
    if process.returncode:
        wrong.append(f"exit code {process.returncode}: see {log}")
    wrong += await asyncio.to_thread(_wrong, run, target=target)
    wrong += [f"left: {each}" for each in await asyncio.to_thread(_left, machines, faults)]
    summary = _summary(run)
    return Outcome(wrong, _figures(read(run), faults, summary), summary, faults.done)


def read(run: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl` up to the last whole line."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _wrong(run: Path, *, target: bool) -> list[str]:
    """Has it reached its target, if it had to, and do its books close?"""
    versions = [record["version"] for record in read(run) if record["kind"] == "step"]
    steps = json.loads((run / "config.json").read_text("utf-8"))["train"]["steps"]
    steps = steps if target else max(versions, default=1)
    wrong = []
    if versions != list(range(1, steps + 1)):
        reached = max(versions, default=0)
        wrong.append(f"{len(versions)} steps up to version {reached}, not each of 1 to {steps}")
    try:
        return wrong + [f"audit: {each}" for each in audit(run).violations]
    except AuditError as error:
        return [*wrong, f"audit: {error}"]


def _left(machines: Machines, faults: Faults) -> list[str]:
    left = [*leftovers.processes(machines), *leftovers.places(machines)]
    return left + leftovers.files(machines, faults.mapped)


def _figures(
    records: list[dict[str, Any]], faults: Faults, summary: dict[str, Any]
) -> dict[str, str]:
    steps = figures.times_of(records, "step")
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    beyond = figures.beyond_start(records, figures.killed(faults.done, "sampler", "engine"))
    by_kind = {
        "sampler lost → next step": figures.times_of(records, "sampler_lost"),
        "learner killed → next step": figures.killed(faults.done, "learner"),
        "any fault → next step": [at for at, _ in faults.done],
    }
    return {
        "faults": f"{len(faults.done)}, and {faults.missed} for which there was nobody",
        "steps": f"{len(steps)} in {steps[-1] - steps[0]:.0f} s" if steps else "none",
        "longest without a step": f"{max(gaps, default=0.0):.1f} s",
        "sampler or engine killed → successor joined, less its start": figures.told(beyond),
        **{name: figures.told(figures.next_steps(records, at)) for name, at in by_kind.items()},
        "lost": ", ".join(
            f"{len(figures.times_of(records, kind))} × {kind}"
            for kind in ("sampler_lost", "worker_lost", "learner_lost", "silent", "resumed")
        ),
        "EM before, after": f"{summary.get('em_before')}, {summary.get('em_after')}",
    }
