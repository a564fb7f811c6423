"""Recordings: the groups that a run has left on disk, and batches to train on made of them.

A run's directory holds its journal, with every group that was ever finished, and in `metrics.jsonl`
which groups each step used. From the directory a step can be repeated exactly. From the journal
alone the groups are put into batches in the order in which they were finished.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wfr.columns import GroupView, view
from wfr.config import Config, ConfigError
from wfr.journal import read_journal
from wfr.schema import SCHEMA


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedBatch:
    """Groups for one step, and the version that consumes them."""

    version: int
    groups: Sequence[pa.RecordBatch]
    max_lag: int


class Recording:
    """The groups of one run, mapped from its files."""

    def __init__(self, path: str | Path) -> None:
        """Open a run directory, or a journal alone.

        Raises:
            ConfigError: there is no journal, or nothing in it.
        """
        self.path = Path(path)
        self._run = self.path if (self.path / "journal").is_dir() else None
        journal = self.path / "journal" if self._run else self.path
        if not journal.is_dir():
            raise ConfigError(f"{path}: neither a run directory nor a journal")
        self._groups = {_name(batch): batch for batch in read_batches(journal)}
        if not self._groups:
            raise ConfigError(f"{journal}: no group was recorded there")

    def __len__(self) -> int:
        """Count of groups."""
        return len(self._groups)

    @property
    def director(self) -> Path | None:
        """The director that the run began with, if it made one itself."""
        base = self._run / "base" if self._run else None
        return base if base and base.is_dir() else None

    def batches(self, groups_per_batch: int, min_scored: int) -> list[RecordedBatch]:
        """The batches of the run's own steps, or new ones of this size if only the journal is here.

        Raises:
            ConfigError: a step used a group that is not in the journal, or there is no full batch.
        """
        steps = self._steps()
        if steps:
            return [
                self._batch(version, [self._find(group) for group in groups])
                for version, groups in steps
            ]
        usable = [
            batch
            for batch in sorted(self._groups.values(), key=_finished)
            if len(view(batch).scored) >= min(min_scored, batch.num_rows)
        ]
        made = [
            usable[start : start + groups_per_batch]
            for start in range(0, len(usable) - groups_per_batch + 1, groups_per_batch)
        ]
        if not made:
            raise ConfigError(
                f"{self.path}: {len(usable)} usable groups do not fill a batch of "
                f"train.groups_per_batch={groups_per_batch}"
            )
        # No token may be newer than the version that consumes it. In batches of the size that the
        # run had this holds from version 0 on, because groups are here in the order of finishing.
        first = max(0, *(_newest(groups) - index for index, groups in enumerate(made)))
        return [self._batch(first + index, groups) for index, groups in enumerate(made)]

    def _steps(self) -> list[tuple[int, list[int]]]:
        """The version and the groups of every step that the run has published."""
        log = self._run / "metrics.jsonl" if self._run else None
        if log is None or not log.exists():
            return []
        records = _read_lines(log)
        return [
            (record["version"] - 1, [*record["groups"], *record.get("groups/replayed", ())])
            for record in records
            if record.get("kind") == "step" and "groups" in record
        ]

    def _find(self, group_id: int) -> pa.RecordBatch:
        try:
            return self._groups[str(group_id)]
        except KeyError:
            raise ConfigError(
                f"{self.path}: a step used group {group_id}, which is not in the journal; give "
                "the journal's own directory to train on the groups that are there"
            ) from None

    @staticmethod
    def _batch(version: int, groups: Sequence[pa.RecordBatch]) -> RecordedBatch:
        oldest = min(_oldest(view(group)) for group in groups)
        return RecordedBatch(version, groups, version - min(version, oldest))


def for_recording(config: Config, recording: Recording) -> tuple[Config, list[RecordedBatch]]:
    """The configuration and the batches of an offline run.

    The director is the one that the recorded run began with, unless `model.path` names another; the
    lag bound is the largest lag in the recording.

    Raises:
        ConfigError: the recording does not give a single batch.
    """
    batches = recording.batches(config.train.groups_per_batch, config.buffer.min_scored)
    batches = batches[: config.train.steps]
    model = config.model
    if model.path is None and recording.director is not None:
        model = model.model_copy(update={"path": str(recording.director.resolve())})
    lag = max((batch.max_lag for batch in batches), default=0)
    buffer = config.buffer.model_copy(update={"max_lag": max(lag, config.buffer.max_lag)})
    return config.model_copy(update={"model": model, "buffer": buffer}), batches


def read_batches(journal: str | Path) -> Iterator[pa.RecordBatch]:
    """Every group of a journal: of one writer, or of all workers of a run."""
    writers = sorted(path for path in Path(journal).iterdir() if path.is_dir())
    for directory in writers or [Path(journal)]:
        yield from read_journal(directory)


def read_table(path: str | Path) -> pa.Table:
    """All trajectories of a run directory or a journal; token columns stay mapped, not copied.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    journal = Path(path) / "journal"
    return pa.Table.from_batches(read_batches(journal if journal.is_dir() else path), schema=SCHEMA)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that was killed
            break
    return records


def _name(batch: pa.RecordBatch) -> str:
    return str(batch.column("group_id")[0].as_py())


def _finished(batch: pa.RecordBatch) -> float:
    return float(pc.max(batch.column("finished_at")).as_py())


def _newest(groups: Sequence[pa.RecordBatch]) -> int:
    spans = [pc.list_flatten(group.column("version_spans")).field("version") for group in groups]
    return max(int(np.max(span.to_numpy(), initial=0)) for span in spans)


def _oldest(group: GroupView) -> int:
    return min((int(t.oldest.min()) for t in group.scored if len(t.oldest)), default=1 << 62)
