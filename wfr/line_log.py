"""Line log: an append-only file of JSON records, one a line, each with a checksum of its own.

    c4d1a0f3b2e85d76 {"event":"admit","group":7}

The checksum is XXH3-64 over the JSON text. A record is with the operating system when `append`
returns, so it survives the death of this process; `Sync` says when it is forced to the disk.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import xxhash

Fsync = Literal["always", "interval", "off"]


class Sync:
    """When appended bytes are forced to the disk: each time, every so many seconds, or never."""

    def __init__(self, policy: Fsync = "interval", interval_s: float = 1.0) -> None:
        """Begin an interval now; it is measured on a clock that never jumps."""
        self.policy = policy
        self._interval_s = interval_s
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether to force the disk after this append."""
        if self.policy != "interval":
            return self.policy == "always"
        now = time.monotonic()
        if now - self._last < self._interval_s:
            return False
        self._last = now
        return True


class LineLog:
    """Appends records to one file; a torn tail that a crash left there is cut off first."""

    def __init__(self, path: str | Path, sync: Sync | None = None) -> None:
        """Continue the file, or begin it."""
        self.path = Path(path)
        self._sync = sync or Sync("off")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._size = read_lines(self.path).whole if self.path.exists() else 0
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, self._size)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; where the disk does not take it, raise OSError and leave no part."""
        self._size += write_all(self._file, encode(record), self._size)
        if self._sync.due():
            self.force()

    def force(self) -> None:
        """Force everything to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close, forced to the disk unless the policy is never to."""
        if self._sync.policy != "off":
            self.force()
        os.close(self._file)


@dataclasses.dataclass(frozen=True, slots=True)
class Lines:
    """What a line log holds.

    Attributes:
        records: every record whose checksum is right, with the number of its line (1, 2, ...).
        whole: bytes up to the end of the last right record.
        size: bytes of the file.
        damaged: numbers of lines before it that are wrong.
    """

    records: list[tuple[int, dict[str, Any]]]
    whole: int
    size: int
    damaged: list[int]

    @property
    def torn(self) -> int:
        """Bytes after the last right record."""
        return self.size - self.whole

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (record for _, record in self.records)


def read_lines(path: str | Path) -> Lines:
    """Read a line log; nothing of it is trusted without its checksum."""
    data = Path(path).read_bytes()
    records: list[tuple[int, dict[str, Any]]] = []
    wrong: list[int] = []
    whole = at = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        end = at + len(line) + 1
        record = _decode(line) if end <= len(data) else None
        if record is not None:
            records.append((number, record))
            whole = end
        elif at < len(data):
            wrong.append(number)
        at = end
    last = records[-1][0] if records else 0
    return Lines(records, whole, len(data), [number for number in wrong if number < last])


def first_line(path: str | Path) -> dict[str, Any]:
    """The first right record of a line log, the rest unread; empty where there is none."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and (record := _decode(line[:-1])) is not None:
                return record
    return {}


def encode(record: Mapping[str, Any]) -> bytes:
    """One line."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return xxhash.xxh3_64_hexdigest(text).encode() + b" " + text + b"\n"


def write_all(file: int, data: bytes | memoryview, size: int) -> int:
    """Append `data` to a file of `size` bytes and return its length, or raise and leave no part."""
    written = 0
    try:
        while written < len(data):
            written += os.write(file, memoryview(data)[written:])
    except OSError:
        os.ftruncate(file, size)
        raise
    return written


def _decode(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.partition(b" ")
    if not text or xxhash.xxh3_64_hexdigest(text).encode() != checksum:
        return None
    record: dict[str, Any] = json.loads(text)
    return record
