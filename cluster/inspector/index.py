"""The index: one row per trajectory, of what one searches by; texts and tokens stay in the journal.

It is a DuckDB file, `inspector.duckdb` in the run directory, and grows with the journal. It holds
nothing that is not made again from there, so it may be deleted at any time. Files are named by
their way from the run directory, which may move.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cluster.inspector.sources import Chunk, Place, Progress, journal_files, new_chunks
from wfr.schema import SchemaVersionError

NAME = "inspector.duckdb"
_VERSION = 2
_MEMORY = "320MB"
_TEXT_CHARS = 300

_TABLES = """
CREATE TABLE layout (version INTEGER);
CREATE TABLE files (
    path VARCHAR PRIMARY KEY, size BIGINT, groups BIGINT, damaged BIGINT
);
CREATE TABLE groups (
    place BIGINT, group_id VARCHAR, task_id VARCHAR, admitted BIGINT,
    path VARCHAR, start BIGINT, size BIGINT, checksum VARCHAR
);
CREATE TABLE trajectories (
    id BIGINT, place BIGINT, number SMALLINT, group_id VARCHAR, sibling INTEGER, task_id VARCHAR,
    source VARCHAR, stop_reason VARCHAR, reward DOUBLE, oldest BIGINT, newest BIGINT,
    turns INTEGER, policy_tokens BIGINT, tokens BIGINT, operators VARCHAR[], calls INTEGER,
    cost_usd DOUBLE, seconds DOUBLE, finished_at DOUBLE, answer VARCHAR, failed BOOLEAN
);
CREATE TABLE tasks (task_id VARCHAR PRIMARY KEY, question VARCHAR);
CREATE TABLE steps (group_id VARCHAR, consumed BIGINT);
CREATE TABLE used (group_id VARCHAR, consumed BIGINT);
"""

_INSERT = """
INSERT INTO trajectories BY POSITION SELECT
    first + row_number() OVER (), place, number, group_id, sibling, task_id,
    source, stop_reason, CASE WHEN isnan(reward) THEN NULL ELSE reward END,
    list_min([s.version for s in version_spans]), list_max([s.version for s in version_spans]),
    len(turns), coalesce(list_sum([t."end" - t.start for t in turns]), 0), tokens,
    list_sort(list_distinct([c.operator for c in operator_calls])), len(operator_calls),
    coalesce(list_sum([c.cost_usd for c in operator_calls]), 0), finished_at - started_at,
    finished_at, left(answer, chars), error <> ''
FROM chunk, (SELECT $first::BIGINT AS first, $chars::INTEGER AS chars)
"""

# Replays use a group again; its lag is that of the first step which used it.
_FIRST_USES = """
INSERT INTO used SELECT group_id, min(consumed) FROM new_steps
WHERE group_id NOT IN (SELECT group_id FROM used) GROUP BY group_id
"""


class Index:
    """The index of one run; `refresh` reads what is new, from one thread at a time."""

    def __init__(self, run: Path) -> None:
        """Open the index of a run directory or a journal, or begin it.

        Where it cannot lie there, because the directory is read-only, another process has it open,
        or there is a journal alone, it is made anew in a temporary directory.

        Raises:
            FileNotFoundError: there is no such directory, or neither a run nor a journal in it.
        """
        self.run = run
        if not run.is_dir():
            raise FileNotFoundError(f"{run}: no such directory; give a run directory or a journal")
        if not (run / "config.json").is_file() and not journal_files(run):
            raise FileNotFoundError(f"{run}: neither a run (no config.json) nor a journal")
        self.problems: dict[str, str] = {}
        self.behind = True
        self._lock = threading.Lock()
        self._steps_at = 0
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._connection = self._open()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection for one thread."""
        return self._connection.cursor()

    def refresh(self, stop: threading.Event | None = None) -> int:
        """Index what the journal and the metrics hold beyond what is known; groups added.

        Once `stop` is set, it ends after the chunk at hand, and the rest is left for another time.
        """
        with self._lock, self.cursor() as connection:
            added = 0
            self._read_steps(connection)
            for path in journal_files(self.run):
                name = path.relative_to(self.run).as_posix()
                try:
                    for chunk in new_chunks(path, _progress(connection, name)):
                        if stop is not None and stop.is_set():
                            return added
                        _insert(connection, name, chunk)
                        added += len(chunk.places)
                    self.problems.pop(name, None)
                except FileNotFoundError:
                    continue  # it was compacted meanwhile
                except (SchemaVersionError, OSError) as error:
                    self.problems[name] = f"{path}: {error}"
            self.behind = False
            return added

    def close(self) -> None:
        """Close the file, and remove it where it is temporary."""
        with self._lock:
            self._connection.close()
            if self._temporary is not None:
                self._temporary.cleanup()

    def _open(self) -> duckdb.DuckDBPyConnection:
        path = self.run / NAME
        try:
            connection = _connect(path) if (self.run / "config.json").exists() else None
        except duckdb.Error:
            connection = None
        if connection is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="wfr-inspector-")
            return _connect(Path(self._temporary.name) / NAME)
        if _fits(connection, self.run):
            return connection
        connection.close()
        path.unlink()
        return _connect(path)

    def _read_steps(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Which version consumed which group, from the lines of metrics.jsonl that are new."""
        log = self.run / "metrics.jsonl"
        if not log.exists():
            return
        if log.stat().st_size < self._steps_at:
            self._steps_at = 0
        with log.open("rb") as file:
            file.seek(self._steps_at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return
        found = list(_steps(whole))
        kinds = [("group_id", pa.string()), ("consumed", pa.int64())]
        arrays = [pa.array([row[n] for row in found], kind) for n, (_, kind) in enumerate(kinds)]
        connection.register("new_steps", pa.table(arrays, names=[name for name, _ in kinds]))
        with _all_or_nothing(connection):
            if self._steps_at == 0:
                connection.execute("DELETE FROM steps")
                connection.execute("DELETE FROM used")
            connection.execute("INSERT INTO steps SELECT group_id, consumed FROM new_steps")
            connection.execute(_FIRST_USES)
        connection.unregister("new_steps")
        self._steps_at += len(whole)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path), config={"memory_limit": _MEMORY})
    if not _count(connection, "duckdb_tables()"):
        connection.execute(_TABLES)
        connection.execute("INSERT INTO layout VALUES (?)", [_VERSION])
    return connection


def _fits(connection: duckdb.DuckDBPyConnection, run: Path) -> bool:
    """Whether an index is of this layout, and of the journal that is there now."""
    try:
        layout = connection.execute("SELECT version FROM layout").fetchall()
        files = connection.execute("SELECT path, size FROM files").fetchall()
    except duckdb.Error:
        return False
    return layout == [(_VERSION,)] and not any(_shrunk(run / path, size) for path, size in files)


def _shrunk(path: Path, size: int) -> bool:
    """True for another file of that name; one that is gone was compacted."""
    index = path.with_suffix(".index")
    told = index if index.exists() else path
    return told.exists() and told.stat().st_size < size


def _progress(connection: duckdb.DuckDBPyConnection, name: str) -> Progress:
    found = connection.execute(
        "SELECT size, groups, damaged FROM files WHERE path = ?", [name]
    ).fetchall()
    return Progress(*found[0]) if found else Progress()


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    ((count,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


@contextlib.contextmanager
def _all_or_nothing(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _insert(connection: duckdb.DuckDBPyConnection, name: str, chunk: Chunk) -> None:
    """Add a chunk, and how far its file has been read."""
    progress = chunk.progress
    with _all_or_nothing(connection):
        if chunk.places:
            _insert_groups(connection, name, chunk.places, chunk.batches)
        connection.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            [name, progress.size, progress.groups, progress.damaged],
        )


def _insert_groups(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    places: Sequence[Place],
    batches: Sequence[pa.RecordBatch],
) -> None:
    first_place, first_row = _count(connection, "groups"), _count(connection, "trajectories")
    rows = pa.Table.from_batches(
        [_row_columns(batch, first_place + number) for number, batch in enumerate(batches)]
    ).combine_chunks()  # which DuckDB reads in one go
    heads = [batch.slice(0, 1) for batch in batches]
    groups = pa.table(
        {
            "place": range(first_place, first_place + len(places)),
            "group_id": [head.column("group_id")[0].as_py() for head in heads],
            "task_id": [head.column("task_id")[0].as_py() for head in heads],
            "admitted": [head.column("admitted_version")[0].as_py() for head in heads],
            "path": [name] * len(places),
            "start": [place.at for place in places],
            "size": [place.size for place in places],
            "checksum": [place.checksum for place in places],
            "question": [_question(head) for head in heads],
        }
    )
    connection.register("chunk", rows)
    connection.register("chunk_groups", groups)
    connection.execute(
        "INSERT INTO groups SELECT place, group_id, task_id, admitted, path, start, size, checksum "
        "FROM chunk_groups"
    )
    connection.execute(_INSERT, {"first": first_row - 1, "chars": _TEXT_CHARS})
    connection.execute(
        "INSERT INTO tasks SELECT task_id, any_value(question) FROM chunk_groups GROUP BY task_id "
        "ON CONFLICT DO NOTHING"
    )
    connection.unregister("chunk")
    connection.unregister("chunk_groups")


_KEPT = (
    *("group_id", "sibling", "task_id", "source", "stop_reason", "reward", "version_spans"),
    *("turns", "operator_calls", "started_at", "finished_at", "answer", "error"),
)


def _row_columns(batch: pa.RecordBatch, place: int) -> pa.RecordBatch:
    count = batch.num_rows
    columns = {name: batch.column(name) for name in _KEPT}
    columns["tokens"] = pc.list_value_length(batch.column("tokens"))
    columns["place"] = pa.array([place] * count, pa.int64())
    columns["number"] = pa.array(range(count), pa.int16())
    return pa.RecordBatch.from_pydict(columns)


def _question(head: pa.RecordBatch) -> str:
    """What a task asks: the end of its first user message, behind the rules of the protocol."""
    messages = head.column("messages")[0].as_py()
    text = next((m["content"] for m in messages if m["role"] == "user"), "")
    for mark in ("\nQuery: ", "Problem:\n"):
        _, found, rest = text.partition(mark)
        text = rest if found else text
    return str(text[:_TEXT_CHARS])


def _steps(lines: bytes) -> Iterator[tuple[str, int]]:
    for line in lines.splitlines():
        try:
            record: Any = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or record.get("kind") != "step":
            continue
        used, version = record.get("groups"), record.get("version")
        if isinstance(used, list) and isinstance(version, int):
            for group in [*used, *(record.get("groups/replayed") or ())]:
                yield str(group), version - 1
