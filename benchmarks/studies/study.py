"""A study: a series of runs, contrasts that were named before it, and the report of both."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from benchmarks.series import Arm, Row, Series
from benchmarks.studies.comparison import (
    OUTCOMES,
    Contrast,
    Line,
    Outcome,
    arms_table,
    clipped,
    contrasts_table,
    draw,
)

RESULTS = Path(__file__).parent / "results"
BESIDE: Mapping[str, Outcome] = {
    "ratios clipped": clipped,
    "entropy at the end": lambda row: float(row["entropy"]),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Study:
    """What is run, and what is compared.

    Attributes:
        contrasts: under `tested` those of one family, under `described` those without a test.
        lines: what is drawn, and `what` that is where all panels show the same.
        outcomes: what is compared, the primary one first.
        beside: what else is told of each arm.
    """

    name: str
    series: Series
    arms: Sequence[Arm]
    contrasts: Mapping[str, Sequence[Contrast]]
    lines: Sequence[Line]
    what: str = "exact match, sampled"
    outcomes: Mapping[str, Outcome] = dataclasses.field(default_factory=lambda: OUTCOMES)
    beside: Mapping[str, Outcome] = dataclasses.field(default_factory=lambda: BESIDE)

    def main(
        self,
        seeds: Sequence[int],
        *,
        minutes: float | None = None,
        only: str = "",
        store: bool = False,
    ) -> None:
        """Make the runs that are missing, of arms whose name holds `only`, then report them all.

        With `store` rows, table and plot are kept beside this file too, for whoever goes on.

        Raises:
            Exit: with code 1, if no run is finished.
        """
        chosen = [arm for arm in self.arms if only in arm.name]
        if not chosen:
            names = ", ".join(arm.name for arm in self.arms)
            raise typer.BadParameter(f"--only {only!r}: no arm is called so; there are {names}")
        failed = self.series.run(chosen, seeds, minutes=minutes)
        rows = self.series.rows(self.arms, seeds)
        if not rows:
            typer.echo(f"no finished run in {self.series.out}", err=True)
            raise typer.Exit(1)
        text = self.report(rows, len(self.arms) * len(seeds), failed)
        (self.series.out / f"{self.name}.md").write_text(text, encoding="utf-8")
        table = self.series.write_table(rows, self.name)
        plot = self.series.out / f"{self.name}.svg"
        draw(rows, self.lines, plot, self.what)
        if store:
            RESULTS.mkdir(exist_ok=True)
            self.series.keep(rows)
            for path in (table, plot):
                shutil.copy(path, RESULTS)
        typer.echo(text)

    def report(self, rows: Sequence[Row], wanted: int, failed: Sequence[str] = ()) -> str:
        """The runs and the contrasts as Markdown."""
        commits = ", ".join(sorted({row["commit"] for row in rows}))
        parts = [f"{len(rows)} of {wanted} runs are finished, of commit {commits}."]
        if failed:
            parts.append(f"Failed: {', '.join(failed)}.")
        parts.append(arms_table(rows, {**self.outcomes, **self.beside}))
        for name, outcome in self.outcomes.items():
            parts.append(contrasts_table(rows, self.contrasts["tested"], name, outcome))
        for name, outcome in self.outcomes.items():
            for contrast in self.contrasts.get("described", ()):
                found = contrast.differences(rows, outcome)
                shown = ", ".join(f"{value:+.3f}" for value in found.values()) or "no pair"
                parts.append(f"Described: {name}, {contrast.name}: {shown}.")
        return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
