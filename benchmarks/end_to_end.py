"""Trajectories per second of whole training: ours against TRL's `GRPOTrainer`, same environment.

Both train the quickstart's director from the same checkpoint on the same tasks, operators, rewards
and batches (16 groups of 8, one optimizer step each, bfloat16) on the whole machine: ours as its
configuration says (vLLM, `max_lag: 4`), TRL as its documentation says for multi-turn environments
(`environment_factory`; `trl_side.py` has its settings, and why it samples with transformers on a
CPU). A rate is that of the steps after the sixth, when what was sampled ahead and what happens once
are past; start-up and evaluations are left out. Runs of both sides take turns.

A second pair of runs has operators that take 200 ms (log-normal, p99 1 s). TRL calls the tools of
one episode at once and waits for them before it calls those of the next episode.

    python -m benchmarks.end_to_end --repeats 3 --late
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import report
from benchmarks.harness import Figure, Result, at_least, figure, interleave, ratio
from benchmarks.series import CONFIG, ROOT, Series, outcome
from wfr.config import load_config

OUT = ROOT / "runs/end_to_end"
STEPS = 20
SKIPPED = 6
LATE = ", ".join(
    f"benchmarks.late_operators:{kind}_LOG_NORMAL" for kind in ("SEARCH", "PROGRAMMER")
)


def run(quick: bool) -> Result:
    """Three pairs of runs; with `quick` one pair of the shortest there can be."""
    if not quick:
        return compare(OUT, repeats=3, steps=STEPS, skipped=SKIPPED)
    with tempfile.TemporaryDirectory() as directory:
        warm = ("warmstart.steps=50",)
        return compare(Path(directory), repeats=1, steps=3, skipped=1, warm=warm)


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    steps: Annotated[int, typer.Option(min=3, help="Optimizer steps of each run.")] = STEPS,
    late: Annotated[bool, typer.Option(help="Also with operators that are late.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of runs and warm start.")] = OUT,
    results: Annotated[
        Path, typer.Option(help="Directory of the stored results; RESULTS.md lies beside it.")
    ] = ROOT / "benchmarks/results",
) -> None:
    """Run both sides in turns and store the result."""
    started = time.perf_counter()
    skipped = min(SKIPPED, steps - 2)
    found = compare(out, repeats=repeats, steps=steps, skipped=skipped, late=late)
    about = (__doc__ or "").split("\n\n")[0].replace("\n", " ")
    seconds = time.perf_counter() - started
    report.write(report.record("end_to_end", about, found, seconds=seconds, quick=False), results)
    for item in found.figures:
        typer.echo(f"{item.name}: {item.value:.3g} {item.unit}")


def compare(
    out: Path,
    *,
    repeats: int,
    steps: int,
    skipped: int,
    warm: Sequence[str] = (),
    late: bool = False,
) -> Result:
    """Run both sides in turns.

    Raises:
        RuntimeError: the warm start or one of our runs failed.
        CalledProcessError: one of TRL's did.
    """
    sides = _Sides(Series(out), warm, skipped)
    pool = "Search, Programmer"
    found = interleave(
        {"ours": lambda: sides.ours(pool, steps), "TRL": lambda: sides.trl(pool, steps)},
        repeats=repeats,
        warmup=0,
    )
    figures = [ratio("trajectories/s, ours ÷ TRL", found["ours"], found["TRL"], at_least(2.0))]
    figures += [figure(f"trajectories/s, {side}", values, "1/s") for side, values in found.items()]
    figures += sides.rewards()
    if late:
        figures += _late(sides, steps)
    setup = {"configuration": "cluster/configs/quickstart.yaml", "steps": steps, "skipped": skipped}
    return Result(figures, {**setup, "TRL": sides.settings}, peers=("trl", "accelerate"))


def _late(sides: _Sides, steps: int) -> list[Figure]:
    """One pair with late operators; TRL's few steps are alike, each takes most of a minute."""
    ours, theirs = sides.ours(LATE, steps), sides.trl(LATE, 3, skipped=1)
    return [
        ratio("late operators: trajectories/s, ours ÷ TRL", [ours], [theirs]),
        figure("late operators: trajectories/s, ours", [ours], "1/s"),
        figure("late operators: trajectories/s, TRL", [theirs], "1/s", note="2 of 3 steps"),
    ]


class _Sides:
    """Both sides from one warm start; each returns its trajectories per second."""

    def __init__(self, series: Series, warm: Sequence[str], skipped: int) -> None:
        self._series = series
        self._base = series.base(warm)
        self._skipped = skipped
        self._last: dict[str, list[float]] = {"ours": [], "TRL": []}
        self.settings: dict[str, Any] = {}

    def ours(self, pool: str, steps: int) -> float:
        settings = (f"train.steps={steps}", f"environment.pool=[{pool}]", "tasks.eval_tasks=12")
        directory = self._series.train("ours", settings)
        if directory is None:
            raise RuntimeError(f"our run in {self._series.out / 'ours'} failed: see its logs")
        row = outcome(directory)
        self._last["ours"].append(statistics.mean(row["curve"][-_LAST:]))
        config = load_config(CONFIG)
        size = config.train.groups_per_batch * config.rollout.group_size
        return rate(row["at"], size, self._skipped)

    def trl(self, pool: str, steps: int, skipped: int | None = None) -> float:
        command = [sys.executable, "-m", "benchmarks.trl_side", str(self._base)]
        command += ["--steps", str(steps), "--out", str(self._series.out / "trl")]
        command += ["--pool", f"[{pool}]"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
        self.settings = found["settings"]
        self._last["TRL"].append(statistics.mean(found["reward"][-_LAST:]))
        return rate(found["at"], found["trajectories"], skipped or self._skipped)

    def rewards(self) -> list[Figure]:
        """What the last steps of both sides sampled, so that nobody is fast for learning nothing.

        Ours is exact match, TRL's the whole reward, which is at most that.
        """
        return [
            figure(f"exact match of the last {_LAST} steps, ours", self._last["ours"]),
            figure(f"reward of the last {_LAST} steps, TRL", self._last["TRL"]),
        ]


_LAST = 3


def rate(at: Sequence[float], trajectories: int, skipped: int) -> float:
    """Trajectories per second from the end of step `skipped` to the end of the last.

    `at` are the times of the ends of steps, in seconds; each took so many trajectories.
    """
    return trajectories * (len(at) - skipped) / (at[-1] - at[skipped - 1])


if __name__ == "__main__":
    typer.run(main)
