"""What a run has left, as far as it got: any of it may be missing or end in the middle."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wfr.recording import read_batches
from wfr.schema import from_batch
from wfr.trajectory import Trajectory

_SHOWN = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Episodes:
    """What the journal holds.

    Attributes:
        count: trajectories, those that the world failed included.
        stop_reasons, operators: how often each.
        seconds, usd: by operator, over all calls.
        best, worst: scored ones of the highest and the lowest reward.
    """

    count: int
    stop_reasons: Mapping[str, int]
    operators: Mapping[str, int]
    seconds: Mapping[str, float]
    usd: Mapping[str, float]
    best: list[Trajectory]
    worst: list[Trajectory]


@dataclasses.dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run, read once.

    Attributes:
        records: lines of `metrics.jsonl` by their kind.
        summary: empty while the run goes on, or after it was killed.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    records: Mapping[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, path: Path) -> RunFiles:
        """Read a run directory; raises FileNotFoundError where it holds no run."""
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path}: holds no run (no config.json)")
        records: dict[str, list[dict[str, Any]]] = {}
        for record in _lines(path / "metrics.jsonl"):
            records.setdefault(str(record.get("kind")), []).append(record)
        return cls(path, _json(path / "config.json"), _json(path / "summary.json"), records)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Records of the published steps."""
        return self.records.get("step", [])

    def episodes(self) -> Episodes:
        """Look through the journal: scalar columns of all of it, whole rows of the few shown."""
        journal = self.path / "journal"
        reasons, operators = Counter[str](), Counter[str]()
        seconds, usd = Counter[str](), Counter[str]()
        ends: list[tuple[float, int, int, pa.RecordBatch]] = []
        count = 0
        batches = read_batches(journal) if journal.is_dir() and any(journal.iterdir()) else ()
        for number, batch in enumerate(batches):
            count += batch.num_rows
            reasons.update(batch.column("stop_reason").to_pylist())
            calls = batch.column("operator_calls").flatten()
            names = calls.field("operator").to_pylist()
            operators.update(names)
            for name, took, cost in zip(
                names,
                calls.field("seconds").to_pylist(),
                calls.field("cost_usd").to_pylist(),
                strict=True,
            ):
                seconds[name] += took
                usd[name] += cost
            rewards = np.asarray(batch.column("reward").to_pylist(), float)
            scored = [(float(r), number, row, batch) for row, r in enumerate(rewards) if r == r]
            ends = _both_ends([*ends, *scored])
        chosen = [from_batch(batch).trajectories[row] for _, _, row, batch in ends]
        low = min(_SHOWN, len(chosen) // 2)
        return Episodes(
            count, reasons, operators, seconds, usd, chosen[low:][::-1][:_SHOWN], chosen[:low]
        )


def _both_ends(
    found: list[tuple[float, int, int, pa.RecordBatch]],
) -> list[tuple[float, int, int, pa.RecordBatch]]:
    """The lowest and the highest rewards, in order; of equal ones the newest are the highest."""
    found.sort(key=lambda item: item[:3])
    return found if len(found) <= 2 * _SHOWN else found[:_SHOWN] + found[-_SHOWN:]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines that hold a record; a run that was killed may leave half of one."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
