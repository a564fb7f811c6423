"""The journal: every finished group on disk before any filter sees it.

A directory of Arrow IPC stream files, written in order of their names. Any of them opens with plain
pyarrow, `table = pyarrow.ipc.open_stream("000001.arrow").read_all()`, and from there with DuckDB,
Polars or pandas.

A group is handed to the operating system before `append` returns, so it survives the death of this
process; files are forced to the disk when they are full or closed. A crash in the middle of a write
leaves a torn tail: the reader returns everything before it and counts the bytes that it left out.
(There are no checksums: a tail that a power cut left full of zeros may read as data.)
A journal never continues an existing file, so a torn tail stays at a file's end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pyarrow as pa

from wfr.schema import SCHEMA, check_version

_PATTERN = "[0-9]" * 6 + ".arrow"


class Journal:
    """Appends record batches to a directory; one writer per directory."""

    def __init__(self, directory: str | Path, max_bytes: int = 256 << 20) -> None:
        """Create the directory; files that are already there are left alone.

        Args:
            directory: where the files are.
            max_bytes: a file that has reached this size is closed and the next one begun.
        """
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Write one group; once this returns, it outlives this process."""
        if self._file is None:
            self._begin()
        assert self._file is not None
        assert self._writer is not None
        self._writer.write_batch(batch)
        self._file.flush()
        if self._file.tell() >= self._max_bytes:
            self.close()

    def close(self) -> None:
        """End the current file and force it to the disk; a later `append` begins another."""
        if self._file is None or self._writer is None:
            return
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = self._writer = None

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _begin(self) -> None:
        taken = [int(path.stem) for path in self._directory.glob(_PATTERN)]
        path = self._directory / f"{max(taken, default=0) + 1:06d}.arrow"
        self._file = path.open("xb")
        self._writer = pa.ipc.new_stream(self._file, SCHEMA)


class JournalReader:
    """The groups of a journal, oldest first, as record batches mapped from the disk.

    Attributes:
        torn: bytes left out at the end of each torn file, known once it has been read.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open nothing yet."""
        self._directory = Path(directory)
        self.torn: dict[Path, int] = {}

    @property
    def torn_bytes(self) -> int:
        """Bytes left out so far."""
        return sum(self.torn.values())

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """All whole batches; raises SchemaVersionError where a file is of another version."""
        for path in sorted(self._directory.glob(_PATTERN)):
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[pa.RecordBatch]:
        size = path.stat().st_size
        if size == 0:  # cannot be mapped, and holds nothing
            return
        source = pa.memory_map(str(path))
        whole = 0
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # the torn tail: counted below
            stream = pa.ipc.open_stream(source)
            check_version(stream.schema)
            whole = source.tell()
            for batch in stream:
                whole = source.tell()
                yield batch
            whole = source.tell()
        if whole < size:
            self.torn[path] = size - whole


def read_journal(directory: str | Path) -> JournalReader:
    """Iterate over a journal's batches; afterwards `torn_bytes` says what could not be read."""
    return JournalReader(directory)
