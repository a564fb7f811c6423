"""Passages: the rows of a corpus, whatever they are called there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from wfr.tasks.rows import Fault, FormatError, rows
from wfr.tasks.source import Document

_TEXTS = ("text", "contents", "passage", "paragraph_text")
_TITLES = ("title", "wikipedia_title")
_ARROW = {".arrow", ".ipc", ".feather"}


@dataclasses.dataclass(slots=True)
class Skipped:
    """Rows that are no passage: how many, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, where: str, why: str) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or f"{where}: {why}"


def passages(path: str | Path, skipped: Skipped) -> Iterator[Document]:
    """Every passage of a JSONL, CSV, TSV, Parquet or Arrow file, or of a directory of them.

    The text stands in `text`, `contents`, `passage` or `paragraph_text`, the title in `title`; as
    in Search-R1's corpus, contents without a title begin with it, in quotes, on a line of its own.
    Rows that are no passage are noted in `skipped`.

    Raises:
        FormatError: the file cannot be read at all.
    """
    for where, row in _rows(Path(path)):
        found = row if isinstance(row, Fault) else _passage(row)
        if isinstance(found, Fault):
            skipped.add(where, found)
        else:
            yield found


def files(path: Path) -> list[Path]:
    """The files of a corpus, in order."""
    return [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    arrow = [file for file in files(path) if file.suffix.lower() in _ARROW]
    if not arrow:
        yield from rows(path)
    for file in arrow:
        number = 0
        try:
            for batch in _batches(file):
                for row in batch.to_pylist():
                    yield f"{file}: row {number}", row
                    number += 1
        except pa.ArrowInvalid as error:
            raise FormatError(f"{file}: is not Arrow: {error}") from None


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Of an Arrow file, or of a stream, as `datasets` writes it."""
    source = pa.memory_map(str(file))
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _passage(row: Any) -> Document | Fault:
    if not isinstance(row, Mapping):
        return Fault(f"is a {type(row).__name__}, not a row with fields")
    name = next((name for name in _TEXTS if name in row), None)
    if name is None:
        return Fault(f"has none of the fields {', '.join(_TEXTS)}")
    text, title = row[name], next((row[name] for name in _TITLES if row.get(name)), "")
    if not isinstance(text, str) or not text.strip():
        return Fault(f"field {name!r} is {text!r:.60}, not a text")
    if not isinstance(title, str):
        return Fault(f"field 'title' is {title!r:.60}, not a text")
    first, _, rest = text.partition("\n")
    if not title and rest and first.startswith('"') and first.endswith('"'):
        title, text = first.strip('"'), rest
    return Document(title.strip(), text.strip())
