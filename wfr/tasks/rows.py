"""Rows of benchmark files, whatever they are packed in, one at a time.

JSON lines, JSON, CSV, TSV, Parquet, each also gzipped but the last, and directories of them. A
UTF-8 byte-order mark and CRLF are fine. Every fault names the file and the line or item.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[str, Any]
"""Where a row stands, and what it is; a `Fault` in its place where it cannot be read."""

_GZIP = b"\x1f\x8b"
_LONGEST_FIELD = 1 << 27


class FormatError(ValueError):
    """A benchmark file that is not what it is said to be."""


class Fault(str):
    """Why one row cannot be read."""

    __slots__ = ()


def rows(path: str | Path) -> Iterator[Row]:
    """Every row of a file, or of every file of a directory in the order of their names.

    Raises:
        FormatError: there is no such file, or its kind is unknown, or a file as a whole is broken.
    """
    for file in _files(Path(path)):
        yield from READERS[_kind(file)](file)


def apps_problems(path: Path) -> Iterator[Row]:
    """APPS: one folder per problem."""
    for folder in sorted(file.parent for file in path.rglob("question.txt")):
        row: dict[str, Any] = {}
        try:
            row["question"] = (folder / "question.txt").read_text(encoding="utf-8-sig")
            for name in ("input_output", "metadata"):
                file = folder / f"{name}.json"
                if file.exists():
                    row[name] = json.loads(file.read_text(encoding="utf-8-sig"))
            starter = folder / "starter_code.py"
            row["starter_code"] = starter.read_text("utf-8") if starter.exists() else ""
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            yield str(folder), Fault(str(error))
            continue
        yield str(folder), {**row, **row.pop("metadata", {})}


def _json_lines(file: Path) -> Iterator[Row]:
    # Only line feeds end a line: str.splitlines would also cut at U+2028 inside a string.
    with _open(file) as stream:
        for number, line in enumerate(stream, 1):
            where = f"{file}: line {number}"
            try:
                text = line.decode("utf-8-sig")
                if text.strip():
                    yield where, json.loads(text)
            except UnicodeDecodeError as error:
                yield where, Fault(f"is not UTF-8 at byte {error.start}")
            except (json.JSONDecodeError, RecursionError) as error:
                yield where, Fault(f"is not JSON: {error}")


def _json_items(file: Path) -> Iterator[Row]:
    with _open(file) as stream:
        data = stream.read()
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: is not UTF-8 at byte {error.start}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        if data.lstrip().startswith(b"{") and b"\n{" in data:
            yield from _json_lines(file)  # a common misnomer
            return
        raise FormatError(f"{file}: is not JSON: {error}") from None
    if not isinstance(value, list):
        yield str(file), value
        return
    for index, item in enumerate(value):
        yield f"{file}: item {index}", item


def _table(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def read(file: Path) -> Iterator[Row]:
        csv.field_size_limit(_LONGEST_FIELD)
        with _open(file) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            reader = csv.DictReader(text, delimiter=delimiter)
            try:
                for row in reader:
                    where = f"{file}: line {reader.line_num}"
                    if None in row or None in row.values():
                        yield where, Fault(f"expected {len(reader.fieldnames or ())} columns")
                    else:
                        yield where, row
            except (UnicodeDecodeError, csv.Error) as error:
                raise FormatError(f"{file}: after line {reader.line_num}: {error}") from None

    return read


def _parquet(file: Path) -> Iterator[Row]:
    try:
        source = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{file}: is not Parquet: {error}") from None
    number = 0
    for batch in source.iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            yield f"{file}: row {number}", row
            number += 1


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_items,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}


def _open(file: Path) -> IO[bytes]:
    stream = file.open("rb")
    zipped = stream.read(2) == _GZIP
    stream.seek(0)
    return gzip.open(stream) if zipped else stream  # type: ignore[return-value]


def _kind(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


def _files(path: Path) -> list[Path]:
    if path.is_file() and _kind(path) in READERS:
        return [path]
    if path.is_file():
        raise FormatError(f"{path}: expected a name that ends in {', '.join(READERS)} (or .gz)")
    if not path.is_dir():
        raise FormatError(f"{path}: there is no such file or directory")
    files = sorted(f for f in path.rglob("*") if f.is_file() and _kind(f) in READERS)
    if not files:
        raise FormatError(f"{path}: holds no file that ends in {', '.join(READERS)}")
    return files
