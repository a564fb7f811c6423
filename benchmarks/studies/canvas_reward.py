"""What do release and diversity do? `python -m benchmarks.studies.canvas_reward`.

Question, asked before any run: FlowSteer reports that its director is worse without conditional
release, and worse still without its diversity reward, and says why: it takes a shortcut, small
workflows that are finished early. Do the two parts of the reward change what a tiny director learns
to build, and how right its answers are?

Arms, of `cluster/configs/canvas_quickstart.yaml`:

* `both`: the file as it is, R = −1 + R_div + [R_div ≥ 1]·R_ans;
* `always released`: R = −1 + R_div + R_ans;
* `answer alone`: R = −1 + R_ans. Without R_div nothing could open a gate, so the two parts cannot
  be taken away in the other order.

All in two worlds, `errs half` and `errs a tenth`: how often the made-up executor errs. In the
first, which is the file's, one operator alone answers 45 % of the held-out tasks and a checked
workflow 87 %, so the answer itself asks for large workflows; in the second 90 and 99 %, which is
nearer to the paper's executors, and a small workflow is a shortcut. Seeds 1 to N. All runs start
from one warm-started director and play the same tasks in the same order; asynchronous runs do not
repeat exactly.

Outcomes, on the held-out tasks, greedy, after training: operators in the final workflow (primary),
answer score. Tested, Holm over the four of an outcome: in each world `always released` − `both`,
what release does, and `answer alone` − `always released`, what diversity does. Means of differences
by seed with 95 % bootstrap intervals and paired t-tests; an effect is claimed where its adjusted p
is below 0.05. Described and not tested: every arm, with turns and the share of open gates, and the
curves of the sampled episodes. All runs count; one that failed is named.

An earlier study (2026-11-27) asked the question of release in the first world, with three seeds and
a warm start for each. Its six runs, in `results/conditional_release.parquet`, showed no difference
at the end; they are not counted here.

The study goes on where it was interrupted, as the others do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.series import ROOT, Arm, Row, Series
from benchmarks.studies.comparison import Contrast, Line, Outcome
from benchmarks.studies.study import RESULTS, Study

CONFIG = ROOT / "cluster/configs/canvas_quickstart.yaml"
WORLDS = {"errs half": 0.5, "errs a tenth": 0.1}
REWARDS: dict[str, tuple[str, ...]] = {
    "both": (),
    "always released": ("environment.reward.conditional_release=false",),
    "answer alone": (
        "environment.reward.conditional_release=false",
        "environment.reward.w_div=0",
    ),
}
OUT = ROOT / "runs/canvas_reward"
ROWS = RESULTS / "canvas_reward.jsonl"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to N of every arm.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 40,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further run after so many minutes.")
    ] = None,
    only: Annotated[str, typer.Option(help="Arms whose name holds this text.")] = "",
    out: Annotated[Path, typer.Option(help="Directory of runs and results.")] = OUT,
    store: Annotated[bool, typer.Option(help="Keep the table in the repository.")] = False,
) -> None:
    """Make the runs that are missing, then report those that are there.

    Examples:
      python -m benchmarks.studies.canvas_reward --minutes 25
      python -m benchmarks.studies.canvas_reward --minutes 0 --store     # only report
    """
    series = Series(out, (f"train.steps={steps}",), config=CONFIG, kept=ROWS)
    study = Study(
        *("canvas_reward", series, arms(), CONTRASTS, LINES),
        what="",
        outcomes=OUTCOMES,
        beside={"turns": _part("turns"), "open gates": _part("gate")},
    )
    study.main(range(1, seeds + 1), minutes=minutes, only=only, store=store)


def arms() -> list[Arm]:
    """All six arms."""
    return [
        Arm(
            name_of(world, reward),
            {"world": world, "reward": reward},
            (f"executor.backends.fallible.mistakes={mistakes}", *overrides),
        )
        for world, mistakes in WORLDS.items()
        for reward, overrides in REWARDS.items()
    ]


def name_of(world: str, reward: str) -> str:
    """Name of an arm."""
    return f"{world}-{reward}".replace(" ", "_")


def _part(name: str) -> Outcome:
    def part(row: Row) -> float:
        return float(row["parts"][name])

    return part


def _curve(name: str) -> Callable[[Row], Sequence[float]]:
    def curve(row: Row) -> Sequence[float]:
        found: Sequence[float] = row["curves"].get(name) or row["curve"]
        return found

    return curve


OUTCOMES = {"operators": _part("operators"), "answer score": _part("correct")}
CONTRASTS = {
    "tested": [
        Contrast(
            f"{world}: {after} − {before}", (name_of(world, after),), (name_of(world, before),)
        )
        for world in WORLDS
        for before, after in (("both", "always released"), ("always released", "answer alone"))
    ]
}
LINES = [
    Line(name_of(world, reward), f"{world}: {title}", reward, colour, _curve(name))
    for world in WORLDS
    for name, title in (("operators", "operators"), ("gate", "open gates"), ("", "right answers"))
    for reward, colour in zip(REWARDS, ("#0b6bcb", "#c2410c", "#15803d"), strict=True)
]


if __name__ == "__main__":
    typer.run(main)
