"""What does conditional release do? `python -m benchmarks.studies.conditional_release`.

Question, asked before any run: FlowSteer's paper says that without conditional release the policy
takes a shortcut: it collects the answer's reward from small workflows and finishes early. Does it?

Arms: `cluster/configs/canvas_quickstart.yaml` as it is, and the same with
`environment.reward.conditional_release: false`. Seeds 1 to N. The two runs of a seed start from the
same warm-started director and differ in nothing else; asynchronous runs do not repeat exactly.

Outcomes, on the held-out tasks, greedy, after training: operators in the final workflow (primary),
turns, share of open gates, answer score, reward. Analysis: per seed the difference (without −
with), then its mean, its smallest and largest value, and the 95 % t interval over the seeds. The
paper's claim is supported if the interval of `operators` or of `turns` lies below zero; if it
contains zero, these runs do not show it; if it lies above, they contradict it. All runs count; one
that failed is named. Beside them, without training: the heuristic router as a policy.

Second question, asked after the first had been answered with no (2026-11-27) and before any run of
its own: is there a shortcut where structure hardly pays in answers? In the file's world one
operator alone answers 45 % of the held-out tasks and a checked workflow 87 %, so the answer itself
asks for large workflows and a small one is no shortcut to it. With `--mistakes 0.1` they answer 90
and 99 %, which is nearer to the paper's executors. Same arms, same warm starts, seeds 1 and 2.
Outcome and claim as above, but two seeds make no interval: it is supported if `operators` or
`turns` of the held-out tasks is lower without conditional release in both, and not shown otherwise.
What pulls towards structure in both arms, R_div, stays: that is the paper's own ablation.

The study can be interrupted: a run whose summary says `done` is not repeated. Results: Parquet with
one row per run, and a table in Markdown. What was looked at afterwards, and is therefore a
description and no test: `curves.svg`, how operators, open gates and right answers of the sampled
episodes went over the steps, and the mean difference over the second half of training.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "cluster/configs/canvas_quickstart.yaml"
ARMS: Mapping[str, tuple[str, ...]] = {
    "released by the gate": (),
    "always released": ("environment.reward.conditional_release=false",),
}
OUTCOMES = ("operators", "turns", "finished", "gate", "correct", "reward")

_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to N of both arms.")] = 3,
    out: Annotated[Path, typer.Option(help="Directory of runs and results.")] = Path(
        "runs/conditional_release"
    ),
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; none: the file's.")] = None,
    mistakes: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How often the executor errs; none: the file's."),
    ] = None,
    report_only: Annotated[bool, typer.Option(help="Report the runs that are there.")] = False,
) -> None:
    """Run what is missing, then report."""
    out = out.resolve()
    if not report_only:
        common = settings(steps, mistakes)
        for seed in range(1, seeds + 1):
            base = _warm_start(out, seed)
            for arm, overrides in ARMS.items():
                _train(out, arm, seed, base, (*common, *overrides))
    rows = list(_rows(out, seeds))
    if not rows:
        typer.echo(f"no finished run in {out}", err=True)
        raise typer.Exit(1)
    pq.write_table(pa.Table.from_pylist(rows), out / "runs.parquet")
    curves = list(_steps(out, seeds))
    text = report(rows) + described(curves)
    if curves:
        draw(curves, out / "curves.svg")
    (out / "report.md").write_text(text, encoding="utf-8")
    typer.echo(text)


def settings(steps: int | None, mistakes: float | None) -> tuple[str, ...]:
    """Overrides of both arms."""
    values = {"train.steps": steps, "executor.backends.fallible.mistakes": mistakes}
    return tuple(f"{key}={value}" for key, value in values.items() if value is not None)


def differences(rows: Sequence[Mapping[str, Any]], outcome: str) -> list[float]:
    """Always released minus released by the gate, per seed that has both."""
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], {})[row["arm"]] = row[outcome]
    gated, always = ARMS
    return [pair[always] - pair[gated] for pair in by_seed.values() if len(pair) == len(ARMS)]


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t interval of the mean; none for fewer than two values or more than ten."""
    if not 1 < len(values) <= len(_T95) + 1:
        return None
    half = _T95[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return mean - half, mean + half


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """The runs and the differences as Markdown."""
    lines = ["| arm | seed | " + " | ".join(OUTCOMES) + " | steps | training s |"]
    lines += ["|" + "---|" * (len(OUTCOMES) + 4)]
    for row in sorted(rows, key=lambda row: (list(ARMS).index(row["arm"]), row["seed"])):
        figures = " | ".join(f"{row[f'{name}_before']:.2f} → {row[name]:.2f}" for name in OUTCOMES)
        lines.append(
            f"| {row['arm']} | {row['seed']} | {figures} | {row['steps']} | "
            f"{row['rl_seconds']:.0f} |"
        )
    lines += ["", "| always − by the gate | mean | smallest | largest | 95 % interval |"]
    lines += ["|---|---|---|---|---|"]
    for outcome in OUTCOMES:
        found = differences(rows, outcome)
        if found:
            bounds = interval(found)
            shown = f"{bounds[0]:+.2f} to {bounds[1]:+.2f}" if bounds else "too few seeds"
            lines.append(
                f"| {outcome} | {statistics.mean(found):+.2f} | {min(found):+.2f} | "
                f"{max(found):+.2f} | {shown} |"
            )
    return "\n".join(lines) + "\n"


def described(steps: Sequence[Mapping[str, Any]]) -> str:
    """The sampled episodes of the second half of training, as Markdown; empty without steps."""
    if not steps:
        return ""
    late = [row for row in steps if row["step"] > max(s["step"] for s in steps) / 2]
    lines = ["", "| sampled, second half, always − by the gate | mean | per seed |"]
    lines += ["|---|---|---|"]
    for outcome in CURVES:
        means: dict[tuple[str, int], list[float]] = {}
        for row in late:
            means.setdefault((row["arm"], row["seed"]), []).append(row[outcome])
        rows = [
            {"arm": arm, "seed": seed, outcome: statistics.mean(values)}
            for (arm, seed), values in means.items()
        ]
        found = differences(rows, outcome)
        if found:
            shown = ", ".join(f"{value:+.2f}" for value in found)
            lines.append(f"| {outcome} | {statistics.mean(found):+.2f} | {shown} |")
    return "\n".join(lines) + "\n"


def draw(steps: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the sampled episodes over the steps: a line per run, a colour per arm."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(4 * len(CURVES), 3.2))
    for axis, outcome in zip(axes, CURVES, strict=True):
        for arm, colour in zip(ARMS, ("#0b6bcb", "#c2410c"), strict=True):
            seeds = sorted({row["seed"] for row in steps if row["arm"] == arm})
            for seed in seeds:
                line = [row for row in steps if (row["arm"], row["seed"]) == (arm, seed)]
                axis.plot(
                    [row["step"] for row in line],
                    _smooth([row[outcome] for row in line]),
                    color=colour,
                    alpha=0.8,
                    label=arm if seed == seeds[0] else None,
                )
        axis.set(title=CURVES[outcome], xlabel="optimizer step")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


CURVES: Mapping[str, str] = {
    "operators": "operators in the workflow",
    "gate": "share of open gates",
    "correct": "share of right answers",
}


def _smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Means of the last `width` values."""
    return [statistics.mean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def _steps(out: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """What the sampled episodes of each step of each finished run were like."""
    for arm in ARMS:
        for seed in range(1, seeds + 1):
            path = out / _name(arm, seed) / "metrics.jsonl"
            if _summary(out, arm, seed).get("status") != "done" or not path.exists():
                continue
            for line in path.read_text("utf-8").splitlines():
                record = json.loads(line)
                if record["kind"] == "step":
                    values = {name: record[f"reward/{name}"] for name in CURVES}
                    yield {"arm": arm, "seed": seed, "step": record["step"], **values}


def _warm_start(out: Path, seed: int) -> Path:
    base = out / f"base-{seed}"
    if not (base / "config.json").exists():
        _wfr("warmstart", str(CONFIG), "--out", str(base), "--set", f"run.seed={seed}")
    return base


def _train(out: Path, arm: str, seed: int, base: Path, overrides: Sequence[str]) -> None:
    name = _name(arm, seed)
    if _summary(out, arm, seed).get("status") == "done":
        return
    values = [f"run.dir={out}", f"run.name={name}", f"run.seed={seed}", f"model.path={base}"]
    options = [part for value in (*values, *overrides) for part in ("--set", value)]
    if _wfr("train", str(CONFIG), "--overwrite", *options, check=False):
        typer.echo(f"{name} failed; see {out / name / 'logs'}", err=True)


def _wfr(*arguments: str, check: bool = True) -> int:
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    return subprocess.run(command, check=check, cwd=ROOT).returncode


def _rows(out: Path, seeds: int) -> Iterator[dict[str, Any]]:
    for arm in ARMS:
        for seed in range(1, seeds + 1):
            summary = _summary(out, arm, seed)
            if summary.get("status") == "done":
                yield {"arm": arm, "seed": seed, **_outcomes(summary)}


def _outcomes(summary: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for when, suffix in (("before", "_before"), ("after", "")):
        parts = {**summary[f"parts_{when}"], "reward": summary[f"reward_{when}"]}
        values |= {f"{name}{suffix}": parts[name] for name in OUTCOMES}
    return {**values, "steps": summary["steps"], "rl_seconds": summary["rl_seconds"]}


def _summary(out: Path, arm: str, seed: int) -> dict[str, Any]:
    path = out / _name(arm, seed) / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _name(arm: str, seed: int) -> str:
    return f"{arm.replace(' ', '_')}-{seed}"


if __name__ == "__main__":
    typer.run(main)
