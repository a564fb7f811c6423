"""Served workflows that were rated, as a journal that `wfr train --offline` reads.

Until somebody rates it, a workflow waits as a file of its own, so that the rating may reach any
replica on this file system; the oldest are dropped. A rated one becomes a group of one trajectory
with the rating as its reward.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from actors.worker import group_meta
from cluster.serving.errors import ServingError
from wfr.journal import Journal
from wfr.schema import from_batch, to_batch
from wfr.trajectory import Group, Trajectory

Redact = Callable[[Trajectory], Trajectory | None]


class Flywheel:
    """One per replica; replicas share the directory, each with a journal of its own in it."""

    def __init__(
        self, directory: Path, replica: str, waiting: int = 1000, redact: Redact | None = None
    ) -> None:
        """Keep `waiting` unrated workflows; `redact` sees each before it is written anywhere."""
        self._waiting_dir = directory / ".unrated"
        self._waiting_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._journal = Journal(directory / re.sub(r"[^A-Za-z0-9_-]", "_", replica))
        self._waiting = waiting
        self._redact = redact

    def keep(self, name: str, version: int, trajectory: Trajectory) -> None:
        """Let a workflow wait for its rating."""
        if self._redact is not None:
            redacted = self._redact(trajectory)
            if redacted is None:
                return
            trajectory = redacted
        trajectory = dataclasses.replace(trajectory, group_id=name, task_id=name)
        trajectory.check_valid()
        batch = to_batch(Group(name, name, version, [trajectory]))
        path = self._path(name)
        temporary = path.with_suffix(".tmp")
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, batch.schema) as out:
            out.write_batch(batch)
        temporary.replace(path)
        self._drop_oldest()

    def rate(self, name: str, reward: float) -> None:
        """Journal a waiting workflow with its reward; raises ServingError where none waits."""
        path = self._path(name)
        claimed = path.with_suffix(f".{os.getpid()}")
        try:
            path.rename(claimed)  # of two ratings of one workflow, the first counts
        except OSError:
            raise ServingError(
                409, "not_kept", f"workflow {name} was rated already, or is not kept any more"
            ) from None
        with pa.ipc.open_stream(claimed.read_bytes()) as reader:
            group = from_batch(reader.read_next_batch())
        rows = [
            dataclasses.replace(row, reward=reward, reward_parts={"rating": reward})
            for row in group.trajectories
        ]
        rated = Group(group.group_id, group.task_id, group.admitted_version, rows)
        batch = to_batch(rated)
        self._journal.append(batch, dataclasses.asdict(group_meta(rated, {}, batch.nbytes)))
        claimed.unlink()

    def close(self) -> None:
        """Close the journal's file."""
        self._journal.close()

    def _path(self, name: str) -> Path:
        if not re.fullmatch(r"wf-[0-9a-f]{32}", name):
            raise ServingError(404, "unknown_workflow", f"there is no workflow {name[:64]!r}")
        return self._waiting_dir / f"{name}.arrow"

    def _drop_oldest(self) -> None:
        paths = sorted(self._waiting_dir.glob("*.arrow"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths[: max(0, len(paths) - self._waiting)]:
            path.unlink(missing_ok=True)


def find_redact(name: str | None) -> Redact | None:
    """The function `module:function`; raises ValueError where there is none."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        found: Redact = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"serving.redact={name!r}: {error}") from None
    return found
