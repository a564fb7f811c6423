"""A run as the inspector sees it: its index, its configuration, and single trajectories."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import duckdb

from cluster.inspector import episode, queries
from cluster.inspector.comparison import compare
from cluster.inspector.index import Index
from cluster.inspector.queries import Filter, Order, Row
from cluster.inspector.tokens import find_tokenizer, pieces
from wfr.objective_config import AdvantageKind
from wfr.schema import SchemaVersionError, from_batch
from wfr.trained_logprobs import trained_logprobs
from wfr.trajectory import Trajectory

if TYPE_CHECKING:
    from cluster.inspector.canvas import Replay

_EVERY_S = 2.0


class GoneError(LookupError):
    """What was asked for is not there, or no longer; the text says what."""


class InspectedRun:
    """Answers what the page asks; every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open the index; raises FileNotFoundError as `Index` does."""
        self.path = path
        self.index = Index(path)
        self._config = _json(path / "config.json")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="wfr-inspector", daemon=True)

    def start(self) -> None:
        """Follow the journal in a thread of its own, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the index."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.index.close()

    def _keep_up(self) -> None:
        while not self._stop.is_set():
            try:
                self.index.refresh(self._stop)
                self.index.problems.pop("index", None)
            except duckdb.Error as error:  # the disk is full, for example: tried again
                self.index.problems["index"] = f"the index cannot be written: {error}"
            self._stop.wait(_EVERY_S)

    def about(self) -> Row:
        """The run, how far it is indexed, and what there is to filter by."""
        summary = _json(self.path / "summary.json")
        with self.index.cursor() as connection:
            facets = queries.facets(connection)
        return {
            "name": str(_of(self._config, "run", "name") or self.path.name),
            "status": str(summary.get("status") or "going on, or killed"),
            "canvas": _of(self._config, "environment", "kind") == "canvas",
            "advantage": self.advantage_kind,
            "indexing": self.index.behind,
            "problems": list(self.index.problems.values()),
            "orders": list(queries.ORDERS),
            **facets,
        }

    def page(self, chosen: Filter, order: Order, start: int, count: int) -> Row:
        """A page of trajectories."""
        with self.index.cursor() as connection:
            total, rows = queries.page(
                connection, chosen, order=order, start=start, count=min(count, queries.MOST_ROWS)
            )
        return {"total": total, "start": start, "rows": rows}

    def group(self, group_id: str) -> Row:
        """The siblings of a group with their advantages; raises GoneError."""
        with self.index.cursor() as connection:
            rows = queries.siblings(connection, group_id, self.advantage_kind)
        if not rows:
            raise GoneError(f"no group {group_id!r} in this journal")
        return {"group_id": group_id, "advantage": self.advantage_kind, "rows": rows}

    def task(self, task_id: str) -> Row:
        """The trajectories of a task, oldest version first; raises GoneError."""
        with self.index.cursor() as connection:
            rows = queries.of_task(connection, task_id)
        if not rows:
            raise GoneError(f"no task {task_id!r} in this journal")
        return {"task_id": task_id, "rows": rows}

    def trajectory(self, group_id: str, sibling: int) -> Row:
        """Everything about one trajectory but its tokens; raises GoneError."""
        with self.index.cursor() as connection:
            row, found = self._find(connection, group_id, sibling)
            siblings = queries.siblings(connection, group_id, self.advantage_kind)
        lag = _of(self._config, "objective", "max_turn_lag")
        told = episode.view(found, row["consumed"], lag)
        advantage = next((s["advantage"] for s in siblings if s["id"] == row["id"]), None)
        kept = {**row, "siblings": [s["sibling"] for s in siblings], "advantage": advantage}
        return {**kept, **told, **self._canvas(found)}

    def tokens(self, group_id: str, sibling: int, turn: int) -> Row:
        """The tokens of one turn and its observation; raises GoneError."""
        with self.index.cursor() as connection:
            row, found = self._find(connection, group_id, sibling)
        used = row["consumed"]
        now = None if used is None else trained_logprobs(self.path, used, f"{group_id}/{sibling}")
        try:
            rows = dict(episode.token_rows(found, turn, now))
        except IndexError:
            raise GoneError(f"trajectory {group_id}/{sibling} has no turn {turn}") from None
        return {**rows, "pieces": pieces(self._tokenizer, rows["ids"])}

    def compare(self, left: tuple[str, int], right: tuple[str, int]) -> Row:
        """Two trajectories turn by turn, word by word; raises GoneError."""
        with self.index.cursor() as connection:
            (row, old), (other, new) = (self._find(connection, *key) for key in (left, right))
        turns = compare(episode.split(old), episode.split(new))
        return {"left": row, "right": other, "turns": turns}

    def export(self, group_id: str, sibling: int) -> Row:
        """A whole trajectory, tokens included, as plain data; raises GoneError."""
        with self.index.cursor() as connection:
            row, _ = self._find(connection, group_id, sibling)
            batch = queries.place_of(connection, self.path, row).read()
        (exported,) = batch.slice(row["number"], 1).to_pylist()
        exported["reward_parts"] = dict(exported["reward_parts"])
        return {"consumed": row["consumed"], **exported}

    @property
    def advantage_kind(self) -> AdvantageKind:
        """How the run's objective compares rewards."""
        named = _of(self._config, "objective", "advantage")
        return named if named in get_args(AdvantageKind) else "zscore"

    def _find(
        self, connection: duckdb.DuckDBPyConnection, group_id: str, sibling: int
    ) -> tuple[Row, Trajectory]:
        row = queries.find(connection, group_id, sibling)
        if row is None:
            raise GoneError(f"no trajectory {group_id!r}/{sibling} in this journal")
        try:
            batch = queries.place_of(connection, self.path, row).read()
        except FileNotFoundError as error:
            raise GoneError(
                f"{error.filename} is gone: the run has compacted its journal"
            ) from None
        except (OSError, SchemaVersionError) as error:
            raise GoneError(str(error)) from None
        try:
            return row, from_batch(batch).trajectories[row["number"]]
        except ValueError as error:  # a reason or a kind that this version of wfr does not know
            raise GoneError(f"trajectory {group_id}/{sibling} cannot be read: {error}") from None

    def _canvas(self, trajectory: Trajectory) -> Row:
        if isinstance(self._replay, str):
            return {"canvas": None, "no_canvas": self._replay}
        texts = episode.split(trajectory).turns
        turns = [
            (turn.kind, texts[number][0] or "") for number, turn in enumerate(trajectory.turns)
        ]
        return {"canvas": self._replay.states(turns), "no_canvas": ""}

    @functools.cached_property
    def _replay(self) -> Replay | str:
        """Makes canvases again, or why it does not."""
        from cluster.inspector.canvas import NoCanvasError, Replay  # all operators: half a second

        environment = self._config.get("environment")
        try:
            return Replay(environment if isinstance(environment, Mapping) else {})
        except NoCanvasError as error:
            return str(error)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return find_tokenizer(self.path, self._config)


def _of(config: Mapping[str, Any], section: str, key: str) -> Any:
    value = config.get(section)
    return value.get(key) if isinstance(value, Mapping) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
