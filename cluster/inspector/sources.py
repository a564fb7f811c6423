"""The journal as the index reads it: only what is new, every byte checked, in chunks of groups."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import xxhash

from wfr.journal import FILES
from wfr.line_log import read_lines
from wfr.upgrades import upgrade

_CHUNK_GROUPS = 512
_CHUNK_BYTES = 48 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a group is: `size` bytes from byte `at` of a file, and their XXH3-64.

    The checksum is empty for files of before journals had indices.
    """

    path: str
    at: int
    size: int
    checksum: str

    def read(self) -> pa.RecordBatch:
        """The group in the current schema.

        Raises:
            OSError: the file is gone, or its bytes are not those that were written.
            SchemaVersionError: it is of a version unknown here.
        """
        with open(self.path, "rb") as file:
            return self.read_from(file, _schema(file))

    def read_from(self, file: BinaryIO, schema: pa.Schema) -> pa.RecordBatch:
        """As `read`, from the open file, whose schema is known."""
        file.seek(self.at)
        data = file.read(self.size)
        if self.checksum and xxhash.xxh3_64_hexdigest(data) != self.checksum:
            raise OSError(f"{self.path}: the {self.size} bytes from {self.at} on are damaged")
        try:
            return upgrade(pa.ipc.read_record_batch(pa.py_buffer(data), schema))
        except pa.ArrowInvalid as error:
            raise OSError(f"{self.path}: no group at byte {self.at}: {error}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a file was read.

    Attributes:
        size: bytes of what tells of its groups (the index beside it, else the file itself).
        groups: how many of them were looked at, damaged ones included.
        damaged: how many of them cannot be read.
    """

    size: int = 0
    groups: int = 0
    damaged: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Groups of one file that follow each other, and how far it has been read with them."""

    progress: Progress
    places: Sequence[Place]
    batches: Sequence[pa.RecordBatch]


def journal_files(run: Path) -> list[Path]:
    """The files of a run directory or of a journal, of all its writers."""
    journal = run / "journal" if (run / "journal").is_dir() else run
    return sorted(journal.glob(FILES)) + sorted(journal.glob(f"*/{FILES}"))


def new_chunks(path: Path, before: Progress) -> Iterator[Chunk]:
    """What a file holds beyond `before`; nothing where it has not grown.

    Raises:
        SchemaVersionError: it is of a version unknown here.
    """
    index = path.with_suffix(".index")
    told = index if index.exists() else path
    size = told.stat().st_size
    if size == before.size:
        return
    places = list(_indexed(path, index) if told is index else _unindexed(path))
    damaged = before.damaged
    for start, end in _cuts(places, before.groups):
        kept, batches = [], []
        for place, batch in zip(places[start:end], _read_all(path, places[start:end]), strict=True):
            if batch is None:
                damaged += 1
            else:
                kept.append(place)
                batches.append(batch)
        done = size if end == len(places) else before.size
        yield Chunk(Progress(done, end, damaged), kept, batches)
    if before.groups >= len(places):
        yield Chunk(Progress(size, len(places), damaged), (), ())


def _read_all(path: Path, places: Sequence[Place]) -> Iterator[pa.RecordBatch | None]:
    """The groups at these places of one file; None for those that are damaged."""
    with open(path, "rb") as file:
        try:
            schema = _schema(file)
        except OSError:
            yield from [None] * len(places)
            return
        for place in places:
            try:
                yield place.read_from(file, schema)
            except OSError:
                yield None


def _cuts(places: Sequence[Place], start: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most so many groups, and of so many bytes unless one alone has more."""
    while start < len(places):
        end, room = start, _CHUNK_BYTES
        while end < min(len(places), start + _CHUNK_GROUPS) and (room > 0 or end == start):
            room -= places[end].size
            end += 1
        yield start, end
        start = end


def _indexed(path: Path, index: Path) -> Iterator[Place]:
    for line in read_lines(index):
        if "header" not in line:
            yield Place(str(path), line["at"], line["size"], line["sum"])


def _unindexed(path: Path) -> Iterator[Place]:
    """Groups of a file of before there were indices, up to where Arrow stops."""
    if not path.stat().st_size:  # cannot be mapped, and holds nothing
        return
    with contextlib.suppress(pa.ArrowInvalid, OSError), pa.memory_map(str(path)) as source:
        stream = pa.ipc.open_stream(source)
        at = source.tell()
        for _ in stream:
            yield Place(str(path), at, source.tell() - at, "")
            at = source.tell()


def _schema(file: BinaryIO) -> pa.Schema:
    """The schema at the head of a file; raises OSError where that is damaged."""
    file.seek(0)
    try:
        return pa.ipc.read_schema(pa.ipc.read_message(file))
    except (pa.ArrowInvalid, EOFError) as error:
        raise OSError(f"{file.name}: its head is damaged: {error}") from None
