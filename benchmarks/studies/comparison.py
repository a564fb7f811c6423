"""Comparing arms of a series: one table of the arms, one of contrasts, one plot of their curves."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.series import Row
from benchmarks.studies.paired import bootstrap, holm, paired_test

Outcome = Callable[[Row], float]
"""A number of one run."""


def speed(row: Row) -> float:
    """Learning speed: the mean of the sampled episodes' exact match over all steps.

    That is the area under the learning curve, divided by its length.
    """
    return float(statistics.mean(row["curve"]))


def final(row: Row) -> float:
    """Exact match on the held-out tasks after training, greedy."""
    return float(row["em_after"])


def clipped(row: Row) -> float:
    """Mean share of the ratios, each unit counted once, that were clipped."""
    return float(statistics.mean(row["clipped"]))


OUTCOMES: Mapping[str, Outcome] = {"learning speed": speed, "exact match": final}


@dataclasses.dataclass(frozen=True, slots=True)
class Contrast:
    """A difference that was named before the runs.

    Attributes:
        above: arms whose mean is taken.
        below: arms whose mean is taken away.
    """

    name: str
    above: tuple[str, ...]
    below: tuple[str, ...]

    def differences(self, rows: Sequence[Row], outcome: Outcome) -> dict[int, float]:
        """The difference by seed, of seeds of which all arms are finished."""
        by_seed: dict[int, dict[str, float]] = {}
        for row in rows:
            by_seed.setdefault(row["seed"], {})[row["arm"]] = outcome(row)
        needed = {*self.above, *self.below}
        return {
            seed: statistics.mean(there[arm] for arm in self.above)
            - statistics.mean(there[arm] for arm in self.below)
            for seed, there in by_seed.items()
            if needed <= there.keys()
        }


def arms_table(rows: Sequence[Row], extra: Mapping[str, Outcome] | None = None) -> str:
    """Means over the seeds of each arm, with bootstrap intervals, as Markdown."""
    columns = {**OUTCOMES, **(extra or {})}
    lines = ["| arm | seeds | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 2)]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        there = [row for row in rows if row["arm"] == arm]
        cells = (_shown([outcome(row) for row in there]) for outcome in columns.values())
        lines.append(f"| {arm} | {len(there)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def contrasts_table(
    rows: Sequence[Row], contrasts: Sequence[Contrast], name: str, outcome: Outcome
) -> str:
    """Each contrast's mean, interval, and p-value before and after Holm, as Markdown."""
    found = [list(each.differences(rows, outcome).values()) for each in contrasts]
    tested = [paired_test(values) for values in found]
    known = [p for p in tested if p is not None]
    adjusted = iter(holm(known))
    lines = [f"| {name} | difference | seeds | p | p, Holm |", "|---|---|---|---|---|"]
    for contrast, values, p in zip(contrasts, found, tested, strict=True):
        if p is None:
            lines.append(f"| {contrast.name} | {_shown(values, '+')} | {len(values)} | | |")
        else:
            shown = f"{_shown(values, '+')} | {len(values)} | {p:.3f} | {next(adjusted):.3f}"
            lines.append(f"| {contrast.name} | {shown} |")
    return "\n".join(lines) + "\n"


def _shown(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return ""
    mean, bounds = f"{statistics.mean(values):{sign}.3f}", bootstrap(values)
    return f"{mean} [{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]" if bounds else mean


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """How an arm is drawn: in which panel, in which colour and dashes, with which name."""

    panel: str
    label: str
    colour: str
    dashes: str = "-"


def draw(rows: Sequence[Row], lines: Mapping[str, Line], path: Path) -> None:
    """Plot learning curves: a panel per kind, a line per arm, the mean over its seeds.

    Drawn is the mean of the last five steps.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys(line.panel for line in lines.values()))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.2), sharey=True, squeeze=False
    )
    for arm, line in lines.items():
        curves = [row["curve"] for row in rows if row["arm"] == arm]
        if not curves:
            continue
        mean = [statistics.mean(step) for step in zip(*curves, strict=False)]
        smooth = [statistics.mean(mean[max(0, i - 4) : i + 1]) for i in range(len(mean))]
        axis = axes[0][panels.index(line.panel)]
        steps = range(1, len(mean) + 1)
        axis.plot(steps, smooth, line.dashes, color=line.colour, label=line.label)
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set(title=panel, xlabel="optimizer step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel("exact match, sampled")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
