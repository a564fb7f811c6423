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


def arms_table(rows: Sequence[Row], columns: Mapping[str, Outcome]) -> str:
    """Means over the seeds of each arm, with bootstrap intervals, as Markdown."""
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
    """How an arm is drawn: in which panel, with which name, in which colour; and which curve."""

    arm: str
    panel: str
    label: str
    colour: str
    curve: Callable[[Row], Sequence[float]] = lambda row: row["curve"]


def draw(rows: Sequence[Row], lines: Sequence[Line], path: Path, what: str = "") -> None:
    """Plot curves over the steps: a line per arm, the mean over its seeds and the last five steps.

    `what` is drawn in every panel; none: the panels say it, and differ in it.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys(line.panel for line in lines))
    size = 3.6 * len(panels), 3.2
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, sharey=bool(what), squeeze=False)
    for line in lines:
        curves = [line.curve(row) for row in rows if row["arm"] == line.arm]
        if not curves:
            continue
        mean = [statistics.mean(step) for step in zip(*curves, strict=False)]
        smooth = [statistics.mean(mean[max(0, i - 4) : i + 1]) for i in range(len(mean))]
        axis = axes[0][panels.index(line.panel)]
        steps = range(1, len(mean) + 1)
        axis.plot(steps, smooth, color=line.colour, label=line.label)
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.set(title=panel, xlabel="optimizer step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel(what)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
