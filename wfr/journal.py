"""The journal: every finished group on disk before any filter sees it.

A directory of Arrow IPC stream files, written in order of their names. Any of them opens with plain
pyarrow, `table = pyarrow.ipc.open_stream("000001.arrow").read_all()`, and from there with DuckDB,
Polars or pandas. Beside each stands an index, `000001.index`: one line per group with its place,
its checksum (XXH3-64 over all bytes of its message) and what the replay buffer has to know of it.

A group is handed to the operating system before `append` returns, so it survives the death of this
process; when it is forced to the disk is the policy's to say. After a crash the index decides what
is there: a group without a right line, or whose bytes do not have the line's checksum, is left out
and counted, wherever in the file it is. A journal never continues an existing file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import xxhash

from wfr.crash_points import reach
from wfr.line_log import LineLog, Sync, first_line, read_lines, write_all
from wfr.schema import SCHEMA, SCHEMA_VERSION, schema_version
from wfr.upgrades import upgrade

FILES = "[0-9]" * 6 + ".arrow"
"""Pattern of the names of a journal's files."""
_END = b"\xff\xff\xff\xff\0\0\0\0"


class Journal:
    """Appends record batches to a directory; one writer per directory."""

    def __init__(
        self, directory: str | Path, max_bytes: int = 256 << 20, sync: Sync | None = None
    ) -> None:
        """Create the directory; files that are already there are left alone.

        Args:
            directory: where the files are.
            max_bytes: a file that has reached this size is closed and the next one begun.
            sync: when groups are forced to the disk; by default once a second.
        """
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        self._sync = sync or Sync()
        self._file = -1
        self._size = 0
        self._index: LineLog | None = None

    def append(self, batch: pa.RecordBatch, meta: Mapping[str, Any] | None = None) -> None:
        """Write one group, with `meta` in the index; once this returns, it outlives this process.

        Raises:
            OSError: the disk does not take it. Nothing of it is left; append it again later.
        """
        reach("put.begin")
        data = memoryview(batch.serialize())
        try:
            if self._index is None:
                self._begin(batch.schema)
            self._write(data, batch, meta)
        except OSError:
            with contextlib.suppress(OSError):
                self._end()
            self._file, self._index = -1, None
            raise
        if self._size >= self._max_bytes:
            reach("rotate.begin")
            self.close()
            reach("rotate.closed")

    def close(self) -> None:
        """End the current file and force it to the disk; a later `append` begins another."""
        if self._index is None:
            return
        with contextlib.suppress(OSError):  # the end mark is a courtesy
            write_all(self._file, _END, self._size)
        self._end()

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

    def _begin(self, schema: pa.Schema) -> None:
        taken = [int(path.stem) for path in self._directory.glob(FILES)]
        path = self._directory / f"{max(taken, default=0) + 1:06d}.arrow"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file, self._size = os.open(path, flags, 0o644), 0
        self._index = LineLog(path.with_suffix(".index"))
        header = memoryview(schema.serialize())
        self._size = write_all(self._file, header, 0)
        checksum = xxhash.xxh3_64_hexdigest(header)
        version = schema_version(schema)
        self._index.append({"schema_version": version, "header": len(header), "sum": checksum})
        if self._sync.policy != "off":
            force_directory(self._directory)
        reach("rotate.opened")

    def _write(
        self, data: memoryview, batch: pa.RecordBatch, meta: Mapping[str, Any] | None
    ) -> None:
        assert self._index is not None
        at, half = self._size, len(data) // 2
        self._size += write_all(self._file, data[:half], at)
        reach("put.torn")
        self._size += write_all(self._file, data[half:], self._size)
        reach("put.written")
        due = self._sync.due()
        if due:  # the bytes before the line that vouches for them
            os.fsync(self._file)
        line = {
            "group": batch.column("group_id")[0].as_py(),
            "admitted": batch.column("admitted_version")[0].as_py(),
            "at": at,
            "size": len(data),
            "sum": xxhash.xxh3_64_hexdigest(data),
            "meta": meta,
        }
        self._index.append(line)
        if due:
            self._index.force()
        reach("put.indexed")

    def _end(self) -> None:
        file, index = self._file, self._index
        self._file, self._index, self._size = -1, None, 0
        if index is None:
            if file >= 0:
                os.close(file)
            return
        if self._sync.policy != "off":
            os.fsync(file)
            index.force()
        os.close(file)
        index.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Where a group is, and what the index says of it; a small thing to send and keep."""

    path: str
    at: int
    size: int
    checksum: str
    group_id: str
    admitted_version: int
    meta: Mapping[str, Any] | None

    def whole(self) -> bool:
        """Whether its bytes are those that were written."""
        try:
            return checksum_of(self.path, self.at, self.size) == self.checksum
        except OSError:
            return False

    def read(self) -> pa.RecordBatch:
        """Map the group, in the current schema; raises OSError where its file is gone."""
        source = pa.memory_map(self.path)
        schema = _schema(self.path, source)
        message = source.read_at(self.size, self.at)
        return upgrade(pa.ipc.read_record_batch(pa.py_buffer(message), schema))


class JournalReader:
    """The groups of a journal, oldest first, as record batches mapped from the disk.

    Attributes:
        torn: bytes left out of each file, known once it has been read.
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
        """All whole groups; raises SchemaVersionError where a file is of an unknown version."""
        for path in sorted(self._directory.glob(FILES)):
            if path.with_suffix(".index").exists():
                for record in self.records_of(path):
                    yield record.read()
            else:
                yield from self._read_unindexed(path)

    def records(self) -> Iterator[Record]:
        """Where all whole groups are."""
        for path in sorted(self._directory.glob(FILES)):
            yield from self.records_of(path)

    def records_of(self, path: Path) -> list[Record]:
        """The whole groups of one file, every byte of them checked."""
        index = path.with_suffix(".index")
        found, counted = [], 0
        if index.exists():
            for line in read_lines(index):
                if "header" in line:
                    counted += line["header"]
                    continue
                record = Record(
                    *(str(path), line["at"], line["size"], line["sum"]),
                    *(line["group"], line["admitted"], line["meta"]),
                )
                if record.whole():
                    found.append(record)
                    counted += record.size
        size = path.stat().st_size
        if size > counted and not _ends_well(path, counted, size):
            self.torn[path] = size - counted
        return found

    def _read_unindexed(self, path: Path) -> Iterator[pa.RecordBatch]:
        """A file of before there were indices: everything up to where Arrow stops."""
        size = path.stat().st_size
        if size == 0:  # cannot be mapped, and holds nothing
            return
        source = pa.memory_map(str(path))
        whole = 0
        with contextlib.suppress(pa.ArrowInvalid, OSError):  # the torn tail: counted below
            stream = pa.ipc.open_stream(source)
            whole = source.tell()
            for batch in stream:
                whole = source.tell()
                yield upgrade(batch)
            whole = source.tell()
        if whole < size:
            self.torn[path] = size - whole


def read_journal(directory: str | Path) -> JournalReader:
    """Iterate over a journal's batches; afterwards `torn_bytes` says what could not be read."""
    return JournalReader(directory)


def checksum_of(path: str | Path, at: int, size: int) -> str:
    """XXH3-64 of a part of a file, read in blocks that stay in the processor's cache."""
    digest = xxhash.xxh3_64()
    block = memoryview(bytearray(min(size, _BLOCK)))
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        while size > 0:
            count = file.readinto(block[: min(size, len(block))])
            if not count:
                return ""
            digest.update(block[:count])
            size -= count
    return digest.hexdigest()


def force_directory(directory: str | Path) -> None:
    """Force the names in a directory to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _schema(path: str, source: pa.MemoryMappedFile) -> pa.Schema:
    """The schema at a file's head; where that is damaged, the current one if it is of it."""
    first = first_line(Path(path).with_suffix(".index"))
    header = source.read_at(first.get("header", 0), 0)
    known = "header" in first
    if known and xxhash.xxh3_64_hexdigest(header) == first["sum"]:
        return pa.ipc.read_schema(pa.py_buffer(header))
    if not known or first["schema_version"] == str(SCHEMA_VERSION):
        return SCHEMA
    raise OSError(f"{path}: its head is damaged, and of version {first['schema_version']}")


def _ends_well(path: Path, at: int, size: int) -> bool:
    if size - at != len(_END):
        return False
    with path.open("rb") as file:
        file.seek(at)
        return file.read() == _END


_BLOCK = 1 << 20
