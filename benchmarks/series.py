"""A series of whole runs from one warm start: each is made once, its row is kept, the rest go on.

    runs/NAME/base/         the director that all runs start from
    runs/NAME/rows.jsonl    one line per finished run: what was set, what came of it
    runs/NAME/ARM-SEED/     the run itself; checkpoints and journal are deleted with its row written

A row is found again by all of the run's settings, in whatever order, so rows of other step counts
may lie in the same file, and arms that two series share are run once. Runs of one seed are made
before those of the next: a part of a series is a series. Where rows are kept in the repository too,
a series goes on from them on any machine.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report
from wfr.config import Config, load_config

if TYPE_CHECKING:
    from cluster.sweep import Ended

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "cluster/configs/quickstart.yaml"

Row = dict[str, Any]
"""A finished run: `arm`, `seed`, the arm's labels, `settings`, and the columns of `outcome`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """One way to run.

    Attributes:
        name: of its runs' directories.
        labels: columns that tell the arms apart.
        overrides: what departs from the configuration, as `--set` takes it.
    """

    name: str
    labels: Mapping[str, Any]
    overrides: tuple[str, ...]


def wfr(*arguments: str) -> int:
    """The command `wfr` in a process of its own; returns its exit code."""
    command = [sys.executable, "-m", "cluster.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def played(configs: Iterable[Config]) -> Iterator[Ended]:
    """Make the runs anew, one after another."""
    wanted = iter(configs)
    first = next(wanted, None)
    if first is None:  # only a report is asked for, and Ray takes a while to import
        return
    from cluster.sweep import sweep

    # Ray would otherwise let everything else on the machine go first.
    os.environ |= {"RAY_worker_niceness": "0"}
    yield from sweep(itertools.chain([first], wanted), overwrite=True)


class Series:
    """Runs of one configuration in one directory."""

    def __init__(
        self,
        out: Path,
        common: Sequence[str] = (),
        command: Callable[..., int] = wfr,
        play: Callable[[Iterable[Config]], Iterable[Ended]] = played,
        kept: Path | None = None,
        config: Path = CONFIG,
    ) -> None:
        """Make runs of `config` under `out`, all with the overrides `common`.

        `play` makes them, and `command` what else there is to make. Rows in the file `kept` count
        as well; `keep` adds to them.
        """
        self.out = out.resolve()
        self._file = config
        self._kept = kept
        self._common = tuple(common)
        self._play = play
        self.command = command

    def run(
        self,
        arms: Sequence[Arm],
        seeds: Iterable[int],
        *,
        warm: Sequence[str] = (),
        minutes: float | None = None,
    ) -> list[str]:
        """Make the runs that are missing; returns the names of those that failed.

        `warm` are overrides of the warm start, if it is missing too. After `minutes` no further run
        is begun. Samplers stay up from run to run, as in every sweep.

        Raises:
            RuntimeError: the warm start failed.
        """
        started, failed = time.monotonic(), []
        stored = self._stored()
        wanted = ((arm, seed) for seed in seeds for arm in arms)
        missing = [each for each in wanted if self._key(*each) not in stored]
        begun: list[tuple[Arm, int, float]] = []

        def configs() -> Iterator[Config]:
            for arm, seed in missing:
                if minutes is not None and time.monotonic() - started > 60 * minutes:
                    break
                self.base(warm)
                begun.append((arm, seed, os.getloadavg()[0]))
                yield self._config(f"{arm.name}-{seed}", self._key(arm, seed))

        for ended in self._play(configs()):
            arm, seed, load = begun[-1]
            # What lies there may be of an earlier run.
            if ended.error or not self._write(arm, seed, load):
                failed.append(f"{arm.name}-{seed}")
        return failed

    def rows(self, arms: Sequence[Arm], seeds: Iterable[int]) -> list[Row]:
        """Rows of the runs that are finished, seed by seed."""
        stored = self._stored()
        return [
            {**stored[self._key(arm, seed)], **arm.labels, "arm": arm.name}
            for seed in seeds
            for arm in arms
            if self._key(arm, seed) in stored
        ]

    def keep(self, rows: Sequence[Row]) -> None:
        """Add those of `rows` that are not there to the file of kept rows."""
        if self._kept is None:
            return
        known = _read(self._kept)
        for row in rows:
            if _same(row["settings"]) not in known:
                _append(self._kept, json.dumps(row))

    def write_table(self, rows: Sequence[Row], name: str = "runs") -> Path:
        """Keep rows as Parquet in the series' directory, one line per run."""
        path = self.out / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([_flat(row) for row in rows]), path)
        return path

    def _stored(self) -> dict[tuple[str, ...], Row]:
        """All rows by their settings; of two with the same ones the later."""
        kept = _read(self._kept) if self._kept else {}
        return {**kept, **_read(self.out / "rows.jsonl")}

    def _key(self, arm: Arm, seed: int) -> tuple[str, ...]:
        return _same((f"run.seed={seed}", *self._common, *arm.overrides))

    def base(self, warm: Sequence[str] = ()) -> Path:
        """The director that all runs start from, warmed up with the overrides `warm` if need be.

        Raises:
            RuntimeError: the warm start failed.
        """
        base = self.out / "base"
        if not (base / "config.json").exists():
            options = _set("run.seed=1", *warm)
            if self.command("warmstart", str(self._file), "--out", str(base), *options):
                raise RuntimeError(f"the warm start in {base} failed: see above")
        return base

    def train(self, name: str, settings: Sequence[str]) -> Path | None:
        """Make one run from the base; returns its directory, or none where it failed."""
        return None if self.train_all({name: settings}) else self.finished(name)

    def train_all(self, runs: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Make runs from the base, by name with their settings; why some of them failed."""
        configs = (self._config(name, settings) for name, settings in runs.items())
        return {each.config.run.name: each.error for each in self._play(configs) if each.error}

    def _config(self, name: str, settings: Sequence[str]) -> Config:
        """Settings of one run from the base."""
        place = (f"run.dir={self.out}", f"run.name={name}", f"model.path={self.out / 'base'}")
        return load_config(self._file, (*place, *settings))

    def finished(self, name: str) -> Path | None:
        """The directory of a run that ended well, or none."""
        path = self.out / name / "summary.json"
        done = path.exists() and json.loads(path.read_text("utf-8")).get("status") == "done"
        return path.parent if done else None

    def _write(self, arm: Arm, seed: int, load: float) -> bool:
        """Keep the row of a run that has ended; returns whether it ended well."""
        directory = self.finished(f"{arm.name}-{seed}")
        if directory is None:
            return False
        settings = self._key(arm, seed)
        row = {
            **{"seed": seed, "settings": settings, "load": round(load, 2), **arm.labels},
            **{"arm": arm.name, "commit": report.commit(), "when": time.strftime("%Y-%m-%d")},
            **outcome(directory),
        }
        _append(self.out / "rows.jsonl", json.dumps(row))
        for part in ("checkpoints", "journal"):
            shutil.rmtree(directory / part, ignore_errors=True)
        return True


def _set(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _same(settings: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(settings))


def outcome(directory: Path) -> Row:
    """What came of a finished run, from its summary and its metrics.

    Times are seconds. `parts` are means over the held-out tasks after training, `curves` those of a
    canvas over the sampled episodes of each step; `curve` is their share of right answers,
    `clipped` the share of its ratios that were clipped, units counted alike, `at` the time
    from the beginning of training to its publication. `groups`, `train`, `publish` and `other` add
    up to the training loop's life up to the last step; `sampler`, `operator`, `own` and `slot` are
    summed over all episodes. `discarded` leaves out what was under way when the run ended (`cut`).
    """
    summary = json.loads((directory / "summary.json").read_text("utf-8"))
    steps = [record for record in _metrics(directory) if record["kind"] == "step"]
    last = steps[-1]
    begin = last["time"] - summary["rl_seconds"]
    thrown = dict(summary["tokens_discarded"])
    cut = thrown.pop("run_ended", 0)
    kept = ("em_before", "em_after", "steps", "rl_seconds", "wall_seconds", "max_lag_seen")
    return {
        **{name: summary[name] for name in kept},
        **{"skill_" + name: value for name, value in summary["skills_after"].items()},
        "parts": summary["parts_after"],
        "generated": summary["tokens_generated"],
        "consumed": summary["tokens_consumed"],
        "waiting": summary["tokens_waiting"],
        "discarded": sum(thrown.values()),
        "discarded_by": thrown,
        "cut": cut,
        "idle": sum(summary["idle_shares"]) / max(1, len(summary["idle_shares"])),
        **last["seconds/training_loop"],
        **last["seconds/workers"],
        "publishing": summary["publish_seconds"],
        "lag": sum(record["lag/mean"] for record in steps) / len(steps),
        "at": [round(record["time"] - begin, 3) for record in steps],
        "curve": [record["reward/correct"] for record in steps],
        "curves": {
            name: [record[f"reward/{name}"] for record in steps]
            for name in ("operators", "gate")
            if f"reward/{name}" in last
        },
        "clipped": [record["clip_fraction_low"] + record["clip_fraction_high"] for record in steps],
        "entropy": last["entropy"],
    }


def _metrics(directory: Path) -> Iterator[Row]:
    for line in (directory / "metrics.jsonl").read_text("utf-8").splitlines():
        yield json.loads(line)


def _read(path: Path) -> dict[tuple[str, ...], Row]:
    rows = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # cut off in the middle: that run is made again
            continue
        rows[_same(row["settings"])] = row
    return rows


def _append(path: Path, line: str) -> None:
    """Add a line that is on the disk when this returns, behind a torn one if there is one."""
    torn = path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _flat(row: Mapping[str, Any]) -> Row:
    """A row for a table: mappings, which differ from run to run, as text."""
    return {k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in row.items()}
