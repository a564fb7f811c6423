"""Spill: groups on the disk instead of in memory, one Arrow IPC file each, mapped when read.

The files are not a journal: nothing is forced to the disk, and nothing of them outlives the run.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True)
class Spilled:
    """A group in a file."""

    path: str

    def read(self) -> pa.RecordBatch:
        """Map the group; its buffers stay in the file, even if that is removed meanwhile."""
        with pa.memory_map(self.path) as source:
            return pa.ipc.open_file(source).get_batch(0)


class SpillDirectory:
    """Writes groups into a directory of its own."""

    def __init__(self, directory: str | Path) -> None:
        """Begin with an empty directory, whatever an earlier run has left there."""
        self._directory = Path(directory)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)

    def write(self, group_id: int, batch: pa.RecordBatch) -> Spilled:
        """Write one group; raises OSError, and leaves no file, where the disk does not take it."""
        path = self._directory / f"{group_id}.arrow"
        try:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return Spilled(str(path))

    def free(self, spilled: Spilled) -> None:
        """Remove a group's file."""
        Path(spilled.path).unlink(missing_ok=True)
