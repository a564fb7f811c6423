"""What does staleness cost, and what helps? `python -m benchmarks.studies.staleness`.

Question, asked before any run: how much worse does the quickstart learn when its data are up to 2,
4 or 8 optimizer steps old, which correction makes up for it, and on which unit should it act?

Arms, all with the sub-sequence mean: `lag-0`, where no correction has anything to do; and for lag
bounds 2, 4 and 8

* `none`: `proximal: current` without a correction. With one step per batch its ratio is 1, so the
  unit is without effect and there is one such arm per lag;
* `clip`: `proximal: behaviour`, the ratio to what sampled, clipped;
* `truncate`: `proximal: current`, weight min(w, 1 + ε);
* `mask`: the same, weight w where 1 − ε ≤ w ≤ 1 + ε, else 0;
* `decoupled`: the same, weight w

each on {token, subsequence, sequence}: 40 arms, of which the grid of ratios has three (`clip` at
lag 4). ε of a unit is that of the equal effective trust region, which that study defines and
stores (`trust_region.json`, lag about 4); it is the same for all lags. Seeds, warm start, steps and
outcomes are those of that study too: learning speed (primary) and held-out exact match after 24
steps.

Analysis: per seed differences of means over arms. Tested, Holm over the ten of an outcome: `none`
at each lag − lag 0 (what staleness costs); each correction, averaged over units and lags − `none`,
averaged over lags; sub-sequence − token, sequence − token and sub-sequence − sequence, each
averaged over corrections and lags. Intervals, tests and claims as there. Described and not tested:
every arm; each correction at lag 8 − `none` at lag 8. All runs count, one that failed is named, and
so is a null result. Subsets of arms (`--only lag-8`) give a report of what is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.series import Arm, Series
from benchmarks.studies.comparison import Contrast, Line
from benchmarks.studies.ratio_grid import OUT, ROWS, calibrated
from benchmarks.studies.study import Study
from benchmarks.studies.trust_region import UNITS, Bounds
from wfr.objective_config import RatioUnit

LAGS = (2, 4, 8)
CORRECTIONS = ("clip", "truncate", "mask", "decoupled")
COMMON = ("objective.aggregate=subsequence_mean",)
FRESH = "lag-0"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 1 to N of every arm.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 24,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further run after so many minutes.")
    ] = None,
    only: Annotated[str, typer.Option(help="Arms whose name holds this text.")] = "",
    out: Annotated[Path, typer.Option(help="Directory of runs and results.")] = OUT,
    store: Annotated[bool, typer.Option(help="Keep the table in the repository.")] = False,
) -> None:
    """Make the runs that are missing, then report those that are there.

    Examples:
      python -m benchmarks.studies.staleness --only subsequence --minutes 25
      python -m benchmarks.studies.staleness --minutes 0 --store     # only report
    """
    series = Series(out, (*COMMON, f"train.steps={steps}"), kept=ROWS)
    study = Study("staleness", series, arms(calibrated(series)), CONTRASTS, LINES)
    study.main(range(1, seeds + 1), minutes=minutes, only=only, store=store)


def arms(bounds: Mapping[RatioUnit, Bounds]) -> list[Arm]:
    """All forty arms, fresh data first."""
    fresh = Arm(FRESH, _labels(0, "none", ""), ("buffer.max_lag=0", *_CURRENT))
    plain = [
        Arm(name_of(lag, "none"), _labels(lag, "none", ""), (f"buffer.max_lag={lag}", *_CURRENT))
        for lag in LAGS
    ]
    corrected = [
        Arm(
            name_of(lag, correction, unit),
            _labels(lag, correction, unit),
            (f"buffer.max_lag={lag}", *_correction(correction, unit, bounds[unit])),
        )
        for lag, correction, unit in itertools.product(LAGS, CORRECTIONS, UNITS)
    ]
    return [fresh, *plain, *corrected]


def name_of(lag: int, correction: str, unit: str = "") -> str:
    """Name of an arm."""
    return "-".join(filter(None, ("lag", str(lag), correction, unit)))


_CURRENT = ("objective.proximal=current", "objective.correction=none")


def _labels(lag: int, correction: str, unit: str) -> dict[str, int | str]:
    return {"lag_bound": lag, "correction": correction, "unit": unit}


def _correction(correction: str, unit: RatioUnit, bounds: Bounds) -> tuple[str, ...]:
    """Overrides of one correction on one unit."""
    ratio = f"objective.ratio_unit={unit}"
    if correction == "clip":
        behaviour = ("objective.proximal=behaviour", "objective.correction=none")
        return (ratio, *behaviour, *bounds.overrides)
    limits = {
        "truncate": (f"objective.correction_cap={1 + bounds.epsilon:g}",),
        "mask": (
            f"objective.correction_low={max(0.0, 1 - bounds.epsilon):g}",
            f"objective.correction_high={1 + bounds.epsilon:g}",
        ),
        "decoupled": (),
    }
    current = ("objective.proximal=current", f"objective.correction={correction}")
    return (ratio, *current, *limits[correction])


def _corrected(corrections: tuple[str, ...], units: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name_of(*each) for each in itertools.product(LAGS, corrections, units))


_PLAIN = tuple(name_of(lag, "none") for lag in LAGS)
CONTRASTS = {
    "tested": [
        *(
            Contrast(f"none at lag {lag} − lag 0", (name_of(lag, "none"),), (FRESH,))
            for lag in LAGS
        ),
        *(Contrast(f"{each} − none", _corrected((each,), UNITS), _PLAIN) for each in CORRECTIONS),
        *(
            Contrast(f"{a} − {b}", _corrected(CORRECTIONS, (a,)), _corrected(CORRECTIONS, (b,)))
            for a, b in (
                ("subsequence", "token"),
                ("sequence", "token"),
                ("subsequence", "sequence"),
            )
        ),
    ],
    "described": [
        Contrast(
            f"{each} at lag 8 − none at lag 8",
            tuple(name_of(8, each, unit) for unit in UNITS),
            (name_of(8, "none"),),
        )
        for each in CORRECTIONS
    ],
}
_COLOURS = dict(zip(CORRECTIONS, ("#0b6bcb", "#c2410c", "#15803d", "#7c3aed"), strict=True))
LINES = [
    Line(FRESH, "no correction", "lag 0", "#111827"),
    *(
        Line(name_of(lag, "none"), "no correction", f"lag {lag}", colour)
        for lag, colour in zip(LAGS, _COLOURS.values(), strict=False)
    ),
    *(
        Line(name_of(8, correction, unit), f"lag 8, {unit}", correction, _COLOURS[correction])
        for unit, correction in itertools.product(UNITS, CORRECTIONS)
    ),
]


if __name__ == "__main__":
    typer.run(main)
