"""Runs of any size for benchmarks of what reads them: recorded groups, written many times over.

The journal is written by the journal's own writer: groups of eight siblings, recorded ones with
other names, rewards, versions and operators.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.recorded import groups
from wfr.journal import Journal
from wfr.line_log import Sync
from wfr.schema import to_batch
from wfr.trajectory import Group, StopReason, Trajectory

SIBLINGS = 8
"""Trajectories of a group."""
_WRITERS, _TEMPLATES = 8, 256
_GROUPS_PER_STEP = 32
_NAMES = ("Search", "Programmer", "Plan", "Custom", "Review", "Revise", "Test", "Verify", "Format")
_REASONS = (StopReason.ANSWERED, StopReason.ANSWERED, StopReason.OUT_OF_TURNS, StopReason.INVALID)


def write_run(directory: Path, count: int) -> int:
    """A run of so many groups; the size of its journal in bytes."""
    (directory / "config.json").write_text(json.dumps({"run": {"name": "a million"}}))
    rng = random.Random(0)
    templates = [to_batch(_varied(group, rng)) for group in groups(_TEMPLATES, SIBLINGS, 192)]
    tasks = max(1, count // 6)
    with contextlib.ExitStack() as stack:
        journals = [
            stack.enter_context(Journal(directory / "journal" / f"worker-{n}", sync=Sync("off")))
            for n in range(_WRITERS)
        ]
        for number in range(count):
            version = max(0, number // _GROUPS_PER_STEP - rng.randrange(5))
            batch = _renamed(templates[number % _TEMPLATES], number, number % tasks, version)
            journals[number % _WRITERS].append(batch)
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(count // _GROUPS_PER_STEP):
            used = range(step * _GROUPS_PER_STEP, (step + 1) * _GROUPS_PER_STEP)
            done = {"step": step + 1, "version": step + 1, "time": 1e9 + step}
            line = {"kind": "step", **done, "groups": list(used)}
            file.write(json.dumps(line) + "\n")
    return sum(path.stat().st_size for path in (directory / "journal").rglob("*.arrow"))


def _varied(group: Group, rng: random.Random) -> Group:
    """The group with other operators, rewards and ends."""
    rows = [_varied_row(row, rng) for row in group.trajectories]
    return dataclasses.replace(group, trajectories=rows)


def _varied_row(row: Trajectory, rng: random.Random) -> Trajectory:
    calls = [dataclasses.replace(c, operator=rng.choice(_NAMES)) for c in row.operator_calls]
    return dataclasses.replace(
        row, operator_calls=calls, reward=rng.random(), stop_reason=rng.choice(_REASONS)
    )


def _renamed(batch: pa.RecordBatch, group: int, task: int, version: int) -> pa.RecordBatch:
    """The batch as another group of another task, sampled by a version and the one after it."""
    count = batch.num_rows
    spans = batch.column("version_spans")
    start, end, _ = spans.values.flatten()
    versions = pa.array(np.arange(len(start)) % 2 + version, pa.int64())
    records = pa.StructArray.from_arrays([start, end, versions], fields=list(spans.type.value_type))
    changed = {
        "group_id": pa.array([str(group)] * count),
        "task_id": pa.array([f"task-{task}"] * count),
        "admitted_version": pa.array([version] * count, pa.int64()),
        "version_spans": pa.ListArray.from_arrays(spans.offsets, records),
        "reward": pa.array(np.random.default_rng(group).random(count)),
    }
    columns = [changed.get(name, batch.column(name)) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)
