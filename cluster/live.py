"""The live view of a run: one screen that says how far it is, what it learns and what it waits for.

It is drawn from the records of `metrics.jsonl` alone, so a finished run can be drawn as well.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from wfr.phases import shares

_KEPT_STEPS = 500
_WINDOW = 10
"""Steps over which rates and shares are taken."""
_WIDE = 100
"""Columns from which on two panels stand side by side."""
_BESIDE = 36
"""Columns of a panel that a sparkline leaves to its frame, its title and its value."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_PROBLEMS = {
    "sampler_lost": "{name} was lost: {why}",
    "sampler_left": "{name} has left: {why}",
    "worker_lost": "{name} died and was started again",
    "learner_lost": "the learner was lost: {why}",
    "silent": "{name} {why}",
    "stall": "no step for long: {why}",
    "quarantine": "node {node} is closed: {why}",
    "refused": "groups could not be trained on: {groups/refused}",
}
_LOOP_NAMES = {"groups": "waits for groups", "train": "trains", "publish": "waits for publishing"}
_WORKER_NAMES = {
    "slot": "wait for a slot",
    "sampler": "wait for a sampler",
    "operator": "wait for operators",
    "own": "own work",
}


class LiveView:
    """What is known of a run, and how it looks at any width; `name` stands in the title."""

    def __init__(self, name: str = "run", clock: Callable[[], float] = time.time) -> None:
        """Know nothing yet; `clock` tells the Unix time that ages are counted to."""
        self._name = name
        self._phase = "starting"
        self._clock = clock
        self._started = clock()
        # Tuples, because another thread draws while this one adds to them.
        self._steps: tuple[Mapping[str, Any], ...] = ()
        self._target = 0
        self._eval: Mapping[str, Any] = {}
        self._executor: Mapping[str, Any] = {}
        self._budget: float | None = None
        self._problems: tuple[tuple[float, str], ...] = ()

    def phase(self, name: str) -> None:
        """Say what is under way."""
        self._phase = name

    def target(self, steps: int) -> None:
        """Say how many steps the run is to take."""
        self._target = steps

    def observe(self, record: Mapping[str, Any]) -> None:
        """Take in one record of `metrics.jsonl`; kinds that it does not show are ignored."""
        kind = record.get("kind")
        if kind == "step":
            self._steps = (*self._steps[1 - _KEPT_STEPS :], record)
        elif kind == "eval":
            self._eval = record
        elif kind == "executor":
            self._executor = record
        elif kind == "run":
            self._target = record.get("train/steps") or self._target
            self._budget = record.get("executor/budget_usd")
        self._note_problem(record)

    def _note_problem(self, record: Mapping[str, Any]) -> None:
        text = ""
        if (form := _PROBLEMS.get(str(record.get("kind")))) is not None:
            text = form.format_map(_Known(record))
        elif record.get("disk/full"):
            text = "the disk is full: groups wait for room"
        elif record.get("kind") == "executor":
            down = [name for name, is_down in record.get("executor/down", {}).items() if is_down]
            text = f"executor {', '.join(down)} is down" if down else ""
        if text and text not in [said for _, said in self._problems]:
            at = float(record.get("time", self._clock()))
            self._problems = (*self._problems[-2:], (at, text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw; two columns where there is room for them."""
        panels = [
            self._panel("progress", self._progress()),
            self._panel("learning", self._learning(options.max_width)),
            self._panel("time", self._time()),
            self._panel("data", self._data()),
        ]
        if options.max_width >= _WIDE:
            grid = Table.grid(expand=True)
            grid.add_column(ratio=1)
            grid.add_column(ratio=1)
            grid.add_row(*panels[:2])
            grid.add_row(*panels[2:])
            yield grid
        else:
            yield from panels
        yield self._problem_lines()

    def _panel(self, title: str, lines: Iterable[RenderableType]) -> Panel:
        heading = f"{self._name}: {self._phase}" if title == "progress" else title
        return Panel(Group(*lines), title=Text(heading, "bold"), title_align="left", padding=(0, 1))

    def _progress(self) -> Iterable[RenderableType]:
        done = self._steps[-1]["step"] if self._steps else 0
        total = max(self._target, done)
        yield _row("steps", f"{done}/{total}", _bar(done / total if total else 0.0))
        yield Text(
            f"elapsed {_duration(max(0.0, self._clock() - self._started))}   {self._remaining()}"
        )
        rates = [
            f"{_number(self._rate(f'tokens/{kind}'))} {word}"
            for kind, word in (("generated", "sampled"), ("consumed", "trained on"))
        ]
        yield Text(f"tokens per second: {', '.join(rates)}")
        yield Text(self._cost())

    def _remaining(self) -> str:
        recent = self._steps[-2 * _WINDOW :]
        if len(recent) < 2 or not self._target:
            return "remaining: not known yet"
        per_step = (recent[-1]["time"] - recent[0]["time"]) / (len(recent) - 1)
        return f"remaining about {_duration(per_step * max(0, self._target - recent[-1]['step']))}"

    def _cost(self) -> str:
        usd = sum(self._executor.get("executor/usd", {}).values())
        calls = sum(self._executor.get("executor/calls", {}).values())
        saved = self._executor.get("executor/hit_ratio")
        text = f"executors: {calls} calls, ${usd:.2f}"
        if self._budget:
            text += f" of ${self._budget:.2f}"
        return text + (f", {saved:.0%} saved by the cache" if saved is not None else "")

    def _learning(self, width: int) -> Iterable[RenderableType]:
        columns = max(10, (width // 2 if width >= _WIDE else width) - _BESIDE)
        for title, key in (
            ("reward", "reward/mean"),
            ("right answers", "reward/correct"),
            ("entropy", "entropy"),
        ):
            values = [s[key] for s in self._steps if s.get(key) is not None]
            last = f"{values[-1]:+.3f}" if values else ""
            yield _row(title, last, Text(sparkline(values, columns), "green"))
        if self._eval.get("em") is not None:
            version, em = self._eval.get("version", 0), self._eval["em"]
            yield Text(f"held out: {em:.3f} at version {version}")

    def _time(self) -> Iterable[RenderableType]:
        for title, key, names in (
            ("training loop", "seconds/training_loop", _LOOP_NAMES),
            ("episodes", "seconds/workers", _WORKER_NAMES),
        ):
            recent = [step[key] for step in self._steps[-_WINDOW - 1 :] if key in step]
            if recent:
                yield Text(title, "bold")
                found = shares(recent[0] if len(recent) > 1 else {}, recent[-1])
                for phase, share in sorted(found.items(), key=lambda item: item[0] == "other"):
                    yield _row(f"  {names.get(phase, phase)}", f"{share:.0%}", _bar(share))
        if not self._steps:
            yield Text("known after the first step", "dim")

    def _data(self) -> Iterable[RenderableType]:
        if not self._steps:
            yield Text("known after the first step", "dim")
            return
        last = self._steps[-1]
        yield Text("lag of the groups, in steps", "bold")
        lags = _summed(step.get("lag/histogram", {}) for step in self._steps[-_WINDOW:])
        most = max(lags.values(), default=1)
        for lag, count in sorted(lags.items()):
            yield _row(f"  {lag}", str(count), _bar(count / most))
        slots = {key[6:]: count for key, count in last.items() if key.startswith("slots/")}
        yield Text("slots: " + ", ".join(f"{n} {s.replace('_', ' ')}" for s, n in slots.items()))
        lost = sum(last.get("tokens/discarded", {}).values())
        yield Text(f"discarded: {lost / max(1, last.get('tokens/generated', 1)):.1%} of the tokens")

    def _rate(self, key: str) -> float:
        recent = [s for s in self._steps[-_WINDOW - 1 :] if key in s]
        if len(recent) < 2:
            return 0.0
        grown: float = recent[-1][key] - recent[0][key]
        return grown / max(float(recent[-1]["time"] - recent[0]["time"]), 1e-6)

    def _problem_lines(self) -> RenderableType:
        if not self._problems:
            return Text("no problems", "dim")
        ages = ((max(0.0, self._clock() - at), text) for at, text in self._problems)
        lines = [
            Text(f"{_duration(age)} ago: {' '.join(text.split())}", "yellow") for age, text in ages
        ]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def sparkline(values: Sequence[float], columns: int) -> str:
    """Values as blocks, oldest first; longer series are averaged into `columns` parts."""
    parts = min(columns, len(values))
    edges = [round(i * len(values) / parts) for i in range(parts + 1)] if parts else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    top = len(_BLOCKS) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[min(top, round((mean - low) * scale))] for mean in means)


def _row(title: str, value: str, picture: RenderableType) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=22, no_wrap=True, overflow="ellipsis")
    row.add_column(width=7, justify="right", no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_row(Text(title), Text(value), picture)
    return row


def _bar(share: float, columns: int = 16) -> Text:
    filled = round(min(1.0, max(0.0, share)) * columns)
    return Text("█" * filled, "cyan") + Text("░" * (columns - filled), "dim")


def _summed(histograms: Iterable[Mapping[Any, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for histogram in histograms:
        for lag, count in histogram.items():
            total[int(lag)] = total.get(int(lag), 0) + count
    return total


def _number(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
