"""Is GSsPO's gain its ratio or its weighting? `python -m benchmarks.studies.ratio_grid`.

Question, asked before any run: Workflow-R1 puts the importance ratio on the sub-sequence (one
think-action turn) and averages over sub-sequences, both at once, and reports that this is better
than GRPO's token ratio and GSPO's sequence ratio with their means over sequences. Which of the two
does it, if any?

Arms: ratio unit {token, subsequence, sequence} × aggregate {token_mean, sequence_mean,
subsequence_mean}, nine cells, seeds 1 to N, of `cluster/configs/quickstart.yaml` with
`buffer.max_lag: 4` and `proximal: behaviour`, so that ratios are those between θ and what sampled,
up to four optimizer steps apart: with fresh data and one step per batch every ratio is 1 and the
unit means nothing. The runs of a seed start from one warm-started director, play the same tasks in
the same order and differ in nothing else; asynchronous runs do not repeat exactly.

Equal effective trust region: ε is chosen for each unit so that the same share of policy tokens is
clipped in recorded batches (`trust_region.py`). They are the fifth batches of runs of the reference
(sub-sequence, ε 0.2, the paper's) with seeds 1000 to 1003, under the weights after four steps.
Bounds and shares are stored in `trust_region.json` before the first cell is run. What share of its
ratios (units, not tokens) each cell clipped over all its steps is reported beside its results.

Outcomes: learning speed (primary), the mean exact match of the sampled episodes over all steps,
which is the area under the learning curve; and exact match on the held-out tasks after training,
greedy. 24 steps: the quickstart has then made most of its way and not yet saturated.

Analysis: per seed the difference between marginal means, in which the other factor is averaged out:
three contrasts of the ratio's unit, three of the aggregate. Means over seeds with 95 % bootstrap
intervals (percentile, over seeds), paired t-tests, Holm over the six contrasts of an outcome. An
effect is claimed where its adjusted p is below 0.05; otherwise it was not shown, with the interval
saying how large it may still be. Described and not tested: each cell, and the two steps from GRPO
(token, sequence_mean) to GSsPO, the ratio first. All runs count; one that failed is named.

The study goes on where it was interrupted: a finished run's row is kept. It writes a table of the
runs, a report and a plot; `--store` keeps table and plot in `benchmarks/studies/results`.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.series import ROOT, Arm, Series
from benchmarks.studies import trust_region
from benchmarks.studies.comparison import Contrast, Line
from benchmarks.studies.study import RESULTS, Study
from benchmarks.studies.trust_region import UNITS, Bounds
from wfr.objective_config import RatioUnit

AGGREGATES = ("token_mean", "sequence_mean", "subsequence_mean")
COMMON = ("buffer.max_lag=4", "objective.proximal=behaviour", "objective.correction=none")
OUT = ROOT / "runs/objective_studies"
ROWS, BOUNDS = RESULTS / "objective_studies.jsonl", RESULTS / "trust_region.json"

REFERENCE: RatioUnit = "subsequence"
EPSILON = 0.2
CALIBRATION_SEEDS = (1000, 1001, 1002, 1003)
CALIBRATION_STEPS = 4


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to N of every cell.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 24,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further run after so many minutes.")
    ] = None,
    only: Annotated[str, typer.Option(help="Cells whose name holds this text.")] = "",
    out: Annotated[Path, typer.Option(help="Directory of runs and results.")] = OUT,
    store: Annotated[bool, typer.Option(help="Keep the table in the repository.")] = False,
) -> None:
    """Make the runs that are missing, then report those that are there.

    Examples:
      python -m benchmarks.studies.ratio_grid --minutes 25
      python -m benchmarks.studies.ratio_grid --minutes 0 --store     # only report
    """
    series = Series(out, (*COMMON, f"train.steps={steps}"), kept=ROWS)
    bounds = calibrated(series)
    study = Study("ratio_grid", series, cells(bounds), CONTRASTS, LINES)
    study.main(range(1, seeds + 1), minutes=minutes, only=only, store=store)
    if store:
        shutil.copy(series.out / BOUNDS.name, BOUNDS)


def calibrated(series: Series) -> dict[RatioUnit, Bounds]:
    """The bounds in the series' directory, or the stored ones, or found by runs of the reference.

    Raises:
        RuntimeError: such a run failed.
        ValueError: their batches say nothing, as `trust_region.calibrate`.
    """
    path = series.out / BOUNDS.name
    if not path.exists() and BOUNDS.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BOUNDS, path)
    if not path.exists():
        series.base()
        runs = dict(map(_calibration, CALIBRATION_SEEDS))
        failed = series.train_all({n: each for n, each in runs.items() if not series.finished(n)})
        if failed:
            raise RuntimeError(f"runs in {series.out} failed, see their logs: {failed}")
        parts = [trust_region.read(series.out / name, CALIBRATION_STEPS) for name in runs]
        found = trust_region.calibrate(trust_region.joined(parts), REFERENCE, EPSILON)
        trust_region.write(found, path)
    return trust_region.load(path)


def _calibration(seed: int) -> tuple[str, tuple[str, ...]]:
    """Name and settings of a run that records batches of the reference."""
    arm = cell(REFERENCE, "subsequence_mean", Bounds(EPSILON, 0.0))
    steps = f"train.steps={CALIBRATION_STEPS + 1}", f"train.checkpoint_every={CALIBRATION_STEPS}"
    return f"calibration-{seed}", (*COMMON, *arm.overrides, f"run.seed={seed}", *steps)


def cell(unit: RatioUnit, aggregate: str, bounds: Bounds) -> Arm:
    """One cell of the grid."""
    return Arm(
        name_of(unit, aggregate),
        {"unit": unit, "aggregate": aggregate},
        (f"objective.ratio_unit={unit}", f"objective.aggregate={aggregate}", *bounds.overrides),
    )


def cells(bounds: Mapping[RatioUnit, Bounds]) -> list[Arm]:
    """All nine cells."""
    return [cell(unit, each, bounds[unit]) for unit, each in itertools.product(UNITS, AGGREGATES)]


def name_of(unit: str, aggregate: str) -> str:
    """Name of a cell."""
    return f"{unit}-{aggregate}"


def _of_unit(unit: str) -> tuple[str, ...]:
    return tuple(name_of(unit, aggregate) for aggregate in AGGREGATES)


def _of_aggregate(aggregate: str) -> tuple[str, ...]:
    return tuple(name_of(unit, aggregate) for unit in UNITS)


_PAIRS = ((1, 0), (2, 0), (1, 2))
CONTRASTS = {
    "tested": [
        *(
            Contrast(f"ratio: {UNITS[a]} − {UNITS[b]}", _of_unit(UNITS[a]), _of_unit(UNITS[b]))
            for a, b in _PAIRS
        ),
        *(
            Contrast(f"aggregate: {a} − {b}", _of_aggregate(a), _of_aggregate(b))
            for a, b in (
                ("subsequence_mean", "token_mean"),
                ("sequence_mean", "token_mean"),
                ("subsequence_mean", "sequence_mean"),
            )
        ),
    ],
    "described": [
        Contrast(
            "from GRPO: the ratio, token → subsequence",
            (name_of("subsequence", "sequence_mean"),),
            (name_of("token", "sequence_mean"),),
        ),
        Contrast(
            "to GSsPO: the weighting, sequence_mean → subsequence_mean",
            (name_of("subsequence", "subsequence_mean"),),
            (name_of("subsequence", "sequence_mean"),),
        ),
    ],
}
LINES = [
    Line(name_of(unit, aggregate), f"ratio: {unit}", aggregate, colour)
    for unit in UNITS
    for aggregate, colour in zip(AGGREGATES, ("#0b6bcb", "#c2410c", "#15803d"), strict=True)
]


if __name__ == "__main__":
    typer.run(main)
