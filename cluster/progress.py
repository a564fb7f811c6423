"""What a person sees while a run runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cluster.live import LiveView

REFRESHES_PER_SECOND = 1
"""How often the live view is drawn, whatever happens in between."""


class Progress:
    """Prints to stderr, so that stdout stays for results; `quiet` prints nothing."""

    def __init__(self, *, name: str = "run", quiet: bool = False) -> None:
        """Start the clock of the run `name`."""
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._started = time.monotonic()
        self._bars: Bars | None = None
        self._bar: TaskID | None = None
        self._view = LiveView(name)
        self._live: Live | None = None
        self._lines = 0.0
        self._last: tuple[float, float] = (time.monotonic(), 0.0)

    def phase(self, name: str) -> None:
        """Say what begins."""
        self.close()
        self._view.phase(name)
        self._last = (time.monotonic(), self._last[1])
        self._say(f"[bold]{name}[/]")

    def note(self, text: str) -> None:
        """Say something that happened."""
        self._say(escape(text))

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take in one record of `metrics.jsonl`."""
        self._view.observe(record)

    def warmstart(self, step: int, steps: int, loss: float) -> None:
        """Follow the supervised warm start."""
        self._advance("warm start", step, steps, f"loss {loss:.3f}" if step else "")

    def step(self, record: Mapping[str, Any], steps: int) -> None:
        """Follow one optimizer step, whose record was observed."""
        if self._console.is_terminal and not self._console.quiet:
            self._view.target(steps)
            self._show()
            return
        now, before = time.monotonic(), self._last
        rate = (record["tokens/generated"] - before[1]) / max(now - before[0], 1e-6)
        self._last = (now, record["tokens/generated"])
        lags = " ".join(f"{lag}:{count}" for lag, count in record["lag/histogram"].items())
        text = (
            f"reward {record['reward/mean']:+.2f}  EM {record.get('reward/correct', 0):.2f}  "
            f"lag {lags}  {rate:.0f} tok/s  "
            f"step {record['learner/step_seconds']:.2f} s  "
            f"publish {record['publish/seconds']:.2f} s"
        )
        self._advance("training", record["step"], steps, text, every_s=0.0)

    def evaluated(self, label: str, result: Mapping[str, Any]) -> None:
        """Report an evaluation."""
        skills = "  ".join(f"{escape(skill)} {em:.2f}" for skill, em in result["skills"].items())
        self._say(f"exact match {label} training: [bold]{result['em']:.3f}[/]  ({skills})")

    def close(self) -> None:
        """Take away what is drawn again and again; lines stay."""
        if self._bars is not None:
            self._bars.stop()
        if self._live is not None:
            self._live.stop()
        self._bars = self._bar = self._live = None

    def _show(self) -> None:
        """Draw the live view from now on; what is said meanwhile appears above it."""
        if self._live is None:
            self._live = Live(
                self._view,
                console=self._console,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            self._live.start(refresh=True)

    def _advance(
        self, name: str, done: int, total: int, text: str, *, every_s: float = 15.0
    ) -> None:
        if not self._console.is_terminal:
            if time.monotonic() - self._lines >= every_s:
                self._lines = time.monotonic()
                self._say(f"{name} {done}/{total}  {text}")
            return
        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}  {task.fields[text]}"),
                TimeRemainingColumn(),
            )
            self._bars = Bars(*columns, console=self._console)
            self._bar = self._bars.add_task(name, total=total, text=text)
            self._bars.start()
        assert self._bar is not None
        self._bars.update(self._bar, completed=done, text=text)

    def _say(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"[dim]{seconds:6.1f} s[/]  {text}", soft_wrap=True)
