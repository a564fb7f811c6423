"""Wall time to equally many optimizer steps at several lag bounds, with operators that are late.

Whole runs of the quickstart (Ray, vLLM, learner) from one warm-started director, which differ in
`buffer.max_lag` and in the latency of both operators: `none`; `log_normal` (median 200 ms, p99
1 s); `heavy_tail` (median 200 ms, p99 4 s, 0.5 % of the calls fail and cost their episode). Lag 0
is the synchronous system. Times are those of training alone, start-up and evaluations left out.

The ideal is what perfect overlap would make of the synchronous run: (T_gen + T_train + T_sync) /
max(T_gen, T_train, T_sync), with its training loop's times for waiting for groups, training and
publishing. It takes T_gen as given, waiting for the slowest episode of a batch included; a run with
several batches under way need not wait for that one, so it may do better than this ideal.

    python -m benchmarks.async_ladder --seeds 3                  # all of it: 45 runs
    python -m benchmarks.async_ladder --profiles heavy_tail --lags 0,4 --minutes 25

goes on where it was interrupted, and stores what is finished. `make bench` asks for less: lag 0 and
4, one seed; what `runs/async_ladder` holds of that is not run again.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import report
from benchmarks.harness import Figure, Result, Target, at_least, at_most, figure
from benchmarks.series import ROOT, Arm, Row, Series

LAGS = (0, 1, 2, 4, 8)
_LATE = "benchmarks.late_operators"
POOLS: Mapping[str, str] = {
    "none": "Search, Programmer",
    "log_normal": f"{_LATE}:SEARCH_LOG_NORMAL, {_LATE}:PROGRAMMER_LOG_NORMAL",
    "heavy_tail": f"{_LATE}:SEARCH_HEAVY_TAIL, {_LATE}:PROGRAMMER_HEAVY_TAIL",
}
"""Operators on offer, by latency profile."""
STEPS = 40
OUT = ROOT / "runs/async_ladder"


def run(quick: bool) -> Result:
    """The ladder's two most telling rungs; with `quick` as short as can be."""
    if not quick:
        return ladder(OUT, arms(POOLS, (0, 4)), (1,), STEPS)
    with tempfile.TemporaryDirectory() as directory:
        chosen = arms(["log_normal"], (0, 2))
        warm = ("warmstart.steps=50",)
        return ladder(Path(directory), chosen, (1,), 3, more=("tasks.eval_tasks=12",), warm=warm)


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to N of every arm.")] = 3,
    lags: Annotated[str, typer.Option(help="Values of buffer.max_lag.")] = "0,1,2,4,8",
    profiles: Annotated[str, typer.Option(help="Latency profiles.")] = ",".join(POOLS),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = STEPS,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further run after so many minutes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of runs and rows.")] = OUT,
    results: Annotated[
        Path, typer.Option(help="Directory of the stored results; RESULTS.md lies beside it.")
    ] = ROOT / "benchmarks/results",
) -> None:
    """Make the runs that are missing, and store the result of those that are there.

    Examples:
      python -m benchmarks.async_ladder --seeds 1 --profiles heavy_tail --minutes 25
      python -m benchmarks.async_ladder --minutes 0      # only report
    """
    names = _listed(profiles, POOLS)
    bounds = sorted(int(lag) for lag in _listed(lags, [str(lag) for lag in range(100)]))
    started = time.perf_counter()
    found = ladder(out, arms(names, bounds), range(1, seeds + 1), steps, minutes=minutes)
    about = (__doc__ or "").split("\n\n")[0].replace("\n", " ")
    seconds = time.perf_counter() - started
    report.write(report.record("async_ladder", about, found, seconds=seconds, quick=False), results)
    for item in found.figures:
        typer.echo(f"{item.name}: {item.value:.3g} {item.unit} {item.note}")
    for note in found.notes:
        typer.echo(f"- {note}")


def _listed(text: str, known: Sequence[str] | Mapping[str, str]) -> list[str]:
    chosen = [part.strip() for part in text.split(",")]
    unknown = [part for part in chosen if part not in known]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: known are {', '.join(known)}")
    return chosen


def arms(profiles: Sequence[str] | Mapping[str, str], lags: Sequence[int]) -> list[Arm]:
    """One arm for each profile and lag bound."""
    return [
        Arm(
            f"{profile}-lag-{lag}",
            {"profile": profile, "max_lag": lag},
            (f"buffer.max_lag={lag}", f"environment.pool=[{POOLS[profile]}]"),
        )
        for profile in profiles
        for lag in lags
    ]


def ladder(
    out: Path,
    chosen: Sequence[Arm],
    seeds: Sequence[int],
    steps: int,
    *,
    more: Sequence[str] = (),
    warm: Sequence[str] = (),
    minutes: float | None = None,
) -> Result:
    """Make the runs that are missing in `out` and say what all of them found.

    Raises:
        RuntimeError: the warm start failed, or no run is finished.
    """
    series = Series(out, (f"train.steps={steps}", *more))
    failed = series.run(chosen, seeds, warm=warm, minutes=minutes)
    rows = series.rows(chosen, seeds)
    if not rows:
        raise RuntimeError(f"no run in {out} is finished; failed: {', '.join(failed) or 'none'}")
    series.write_table(rows)
    notes = _notes(rows, len(chosen) * len(seeds), failed)
    setup = {
        "configuration": "cluster/configs/quickstart.yaml",
        "steps": steps,
        "runs": table(rows),
    }
    return Result(figures(rows), setup, notes=notes)


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Speed-ups over the synchronous run of the same seed, tokens thrown away, scores."""
    found: list[Figure] = []
    for profile in POOLS:
        there = [row for row in rows if row["profile"] == profile]
        ideals = {row["seed"]: ideal(row) for row in there if row["max_lag"] == 0}
        for lag in sorted({row["max_lag"] for row in there}):
            of_lag = [row for row in there if row["max_lag"] == lag]
            found += _of_arm(f"{profile}, lag {lag}", of_lag, _synchronous(there), ideals)
    return found


def ideal(synchronous: Row) -> float:
    """How much faster a synchronous run would be if its three phases overlapped perfectly."""
    phases = [synchronous[name] for name in ("groups", "train", "publish")]
    return float(sum(phases) / max(phases))


def _synchronous(rows: Sequence[Row]) -> dict[int, float]:
    """Seconds of the synchronous run, by seed."""
    return {row["seed"]: row["rl_seconds"] for row in rows if row["max_lag"] == 0}


def _of_arm(
    name: str, rows: Sequence[Row], synchronous: Mapping[int, float], ideals: Mapping[int, float]
) -> list[Figure]:
    profile, lag = rows[0]["profile"], rows[0]["max_lag"]
    paired = [row for row in rows if row["seed"] in synchronous]
    gains = {row["seed"]: synchronous[row["seed"]] / row["rl_seconds"] for row in paired}
    wanted = at_least(3.0) if (profile, lag) == ("heavy_tail", 4) else None
    found = [figure(f"{name}: training", [row["rl_seconds"] for row in rows], "s")]
    if lag and gains:
        close = [gain / ideals[seed] for seed, gain in gains.items()]
        found += [
            figure(f"{name}: speed-up over lag 0", list(gains.values()), "×", wanted),
            figure(f"{name}: speed-up ÷ ideal", close, "×"),
        ]
    if not lag:
        found.append(figure(f"{name}: ideal speed-up", list(ideals.values()), "×"))
    return [
        *found,
        _share(f"{name}: tokens discarded", rows, "discarded", at_most(2.0)),
        figure(f"{name}: exact match after training", [row["em_after"] for row in rows]),
    ]


def _share(name: str, rows: Sequence[Row], column: str, target: Target | None) -> Figure:
    return figure(name, [100 * row[column] / row["generated"] for row in rows], "%", target)


def table(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """For each arm the means over its seeds of what is worth a look.

    `loop` shares are of the training loop's time, `episode` shares of all episodes' time together,
    `idle` of the cores' time.
    """
    found = {}
    for name in dict.fromkeys(row["arm"] for row in rows):
        there = [row for row in rows if row["arm"] == name]
        loop = ("groups", "train", "publish", "other")
        episode = ("sampler", "operator", "own")
        values = {
            "seeds": len(there),
            "seconds": _mean(there, lambda row: row["rl_seconds"]),
            **{f"loop {p}": _mean(there, _part(p, loop)) for p in loop},
            **{f"episode {p}": _mean(there, _part(p, episode)) for p in episode},
            "idle": _mean(there, lambda row: row["idle"]),
            "mean lag": _mean(there, lambda row: row["lag"]),
            "largest lag": max(row["max_lag_seen"] for row in there),
            "cut at the end": _mean(there, lambda row: row["cut"] / row["generated"]),
            "unused at the end": _mean(there, lambda row: row["waiting"] / row["generated"]),
            "em": _mean(there, lambda row: row["em_after"]),
            "load at the start": max(row["load"] for row in there),
        }
        found[name] = {key: round(float(value), 4) for key, value in values.items()}
    return found


def _mean(rows: Sequence[Row], column: Callable[[Row], float]) -> float:
    return statistics.mean(map(column, rows))


def _part(phase: str, phases: Sequence[str]) -> Callable[[Row], float]:
    return lambda row: row[phase] / max(sum(row[p] for p in phases), 1e-9)


def _notes(rows: Sequence[Row], wanted: int, failed: Sequence[str]) -> list[str]:
    commits = sorted({row["commit"] for row in rows})
    notes = [f"{len(rows)} of {wanted} runs are finished, of commit {', '.join(commits)}"]
    if failed:
        notes.append(f"failed: {', '.join(failed)}")
    return notes


if __name__ == "__main__":
    typer.run(main)
