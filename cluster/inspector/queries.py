"""What is asked of the index: pages of trajectories that pass a filter, facets, groups, tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import duckdb
import numpy as np

from cluster.inspector.sources import Place
from wfr.advantage import advantage
from wfr.objective_config import AdvantageKind
from wfr.trajectory import StopReason

Order = Literal["newest", "oldest", "best", "worst", "longest", "stalest", "slowest", "costliest"]
ORDERS: Mapping[Order, str] = {
    "newest": "id DESC",
    "oldest": "id",
    "best": "reward DESC NULLS LAST, id DESC",
    "worst": "reward NULLS LAST, id DESC",
    "longest": "policy_tokens DESC, id DESC",
    "stalest": "consumed - oldest DESC NULLS LAST, id DESC",
    "slowest": "seconds DESC, id DESC",
    "costliest": "cost_usd DESC, id DESC",
}
MOST_ROWS = 200
_FACET_VALUES = 100
_WORLD_FAILURES = tuple(reason.value for reason in StopReason if reason.is_world_failure)

Row = dict[str, Any]


class FilterError(ValueError):
    """A filter that cannot be; the text names the key, its value, and what is allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Which trajectories; what is None or empty does not matter.

    Attributes:
        text: part of a task's id or question or of an answer, in any case, or a group's whole id.
        task: a task's whole id.
        operator: one that was called at least once.
        reward_min, reward_max: inclusive; trajectories without a reward pass neither.
        lag_min, lag_max: optimizer steps between the oldest token and the step that used it,
            inclusive; trajectories that no step has used pass neither.
        version: a weight version between those of the oldest and the newest token.
    """

    text: str = ""
    task: str = ""
    stop_reason: str = ""
    operator: str = ""
    source: str = ""
    reward_min: float | None = None
    reward_max: float | None = None
    lag_min: int | None = None
    lag_max: int | None = None
    version: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Self:
        """Read a query string's values; raises FilterError for what is not a number."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            text = given.get(field.name, "").strip()
            if text:
                values[field.name] = _READERS.get(str(field.type), str_of)(field.name, text)
        return cls(**values)

    @property
    def needs_steps(self) -> bool:
        """Whether it asks by lag, which is known from the steps of the run."""
        return self.lag_min is not None or self.lag_max is not None

    def conditions(self) -> Iterator[tuple[str, Any]]:
        """SQL conditions over the columns of a trajectory, each with its parameter."""
        if self.text:
            yield (
                "(group_id = $text OR contains(lower(answer), lower($text)) OR task_id IN (SELECT "
                "task_id FROM tasks WHERE contains(lower(question || ' ' || task_id), "
                "lower($text))))",
                {"text": self.text},
            )
        for column, value in (
            ("task_id", self.task),
            ("stop_reason", self.stop_reason),
            ("source", self.source),
        ):
            if value:
                yield f"{column} = ${column}", {column: value}
        if self.operator:
            yield "list_contains(operators, $operator)", {"operator": self.operator}
        for sql, name in (
            ("reward >= $reward_min", "reward_min"),
            ("reward <= $reward_max", "reward_max"),
            ("consumed - oldest >= $lag_min", "lag_min"),
            ("consumed - oldest <= $lag_max", "lag_max"),
            ("$version BETWEEN oldest AND newest", "version"),
        ):
            value = getattr(self, name)
            if value is not None:
                yield sql, {name: value}


def str_of(_: str, text: str) -> str:
    """The text itself."""
    return text


def _number(kind: type[int] | type[float]) -> Any:
    def read(name: str, text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise FilterError(f"{name}={text[:40]!r} is not {what}") from None

    return read


_READERS = {"float | None": _number(float), "int | None": _number(int)}


def page(
    connection: duckdb.DuckDBPyConnection,
    chosen: Filter,
    *,
    order: Order = "newest",
    start: int = 0,
    count: int = 50,
) -> tuple[int, list[Row]]:
    """How many trajectories pass, and `count` of them from number `start` on in an order."""
    where, values = _where(chosen)
    used = " LEFT JOIN used USING (group_id)"
    counted = "trajectories" + (used if chosen.needs_steps else "")
    ordered = "trajectories" + (used if chosen.needs_steps or order == "stalest" else "")
    total = _rows(connection, f"SELECT count(*) AS n FROM {counted} {where}", values)[0]["n"]
    rows = _rows(
        connection,
        f"WITH chosen AS (SELECT id FROM {ordered} {where} ORDER BY {ORDERS[order]} "
        f"LIMIT {int(count)} OFFSET {int(start)}) {_SHOWN} JOIN chosen USING (id)"
        f" ORDER BY {ORDERS[order]}",
        values,
    )
    return total, rows


def facets(connection: duckdb.DuckDBPyConnection) -> Row:
    """What there is to choose from: counts by stop reason, operator and source; ranges."""

    def counts(sql: str) -> list[Row]:
        return _rows(
            connection,
            f"SELECT value, count(*) AS n FROM ({sql}) GROUP BY value ORDER BY n DESC, value "
            f"LIMIT {_FACET_VALUES}",
        )

    (ranges,) = _rows(
        connection,
        "SELECT count(*) AS trajectories, min(reward) AS reward_min, max(reward) AS reward_max, "
        "min(oldest) AS version_min, max(newest) AS version_max FROM trajectories",
    )
    (held,) = _rows(
        connection,
        "SELECT (SELECT count(*) FROM groups) AS groups, (SELECT count(*) FROM tasks) AS tasks, "
        "(SELECT coalesce(sum(damaged), 0)::BIGINT FROM files) AS damaged",
    )
    return {
        **ranges,
        **held,
        "stop_reasons": counts("SELECT stop_reason AS value FROM trajectories"),
        "operators": counts("SELECT unnest(operators) AS value FROM trajectories"),
        "sources": counts("SELECT source AS value FROM trajectories WHERE source <> ''"),
    }


def siblings(
    connection: duckdb.DuckDBPyConnection, group_id: str, kind: AdvantageKind
) -> list[Row]:
    """The trajectories of a group with their advantages; none where there is no such group.

    `advantage` is None where there is nothing to compare with: the world failed the episode, or
    the kind compares within a batch and no step has used the group.
    """
    rows = _rows(
        connection,
        f"{_SHOWN} WHERE place = (SELECT max(place) FROM groups WHERE group_id = $group) "
        "ORDER BY sibling",
        {"group": group_id},
    )
    values = _advantages(connection, rows, kind)
    return [{**row, "advantage": values.get(row["id"])} for row in rows]


def of_task(connection: duckdb.DuckDBPyConnection, task_id: str, most: int = 500) -> list[Row]:
    """The trajectories of a task, by the versions that sampled them."""
    return _rows(
        connection,
        f"{_SHOWN} WHERE task_id = $task ORDER BY oldest, id LIMIT {int(most)}",
        {"task": task_id},
    )


def find(connection: duckdb.DuckDBPyConnection, group_id: str, sibling: int) -> Row | None:
    """One trajectory; of equal names the last that was written."""
    rows = _rows(
        connection,
        f"{_SHOWN} WHERE group_id = $group AND sibling = $sibling ORDER BY id DESC LIMIT 1",
        {"group": group_id, "sibling": sibling},
    )
    return rows[0] if rows else None


def place_of(connection: duckdb.DuckDBPyConnection, run: Path, row: Row) -> Place:
    """Where the group of a trajectory of a run lies."""
    (found,) = _rows(
        connection,
        "SELECT path, start, size, checksum FROM groups WHERE place = $place",
        {"place": row["place"]},
    )
    return Place(str(run / found["path"]), found["start"], found["size"], found["checksum"])


_SHOWN = (
    "SELECT trajectories.*, consumed, consumed - oldest AS lag, question FROM trajectories "
    "LEFT JOIN used USING (group_id) LEFT JOIN tasks USING (task_id)"
)


def _where(chosen: Filter) -> tuple[str, Row]:
    conditions, values = [], {}
    for sql, parameters in chosen.conditions():
        conditions.append(sql)
        values.update(parameters)
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), values


def _rows(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Any] | None = None
) -> list[Row]:
    done = connection.execute(sql, dict(values or {}))
    names = [column[0] for column in done.description or ()]
    return [dict(zip(names, row, strict=True)) for row in done.fetchall()]


def _advantages(
    connection: duckdb.DuckDBPyConnection, rows: list[Row], kind: AdvantageKind
) -> dict[int, float]:
    """Advantages by the id of the trajectory, as `wfr.advantage` takes them."""
    if not rows:
        return {}
    beyond = kind in ("batch", "source_partitioned", "source_partitioned_legacy")
    pool = rows
    if beyond and rows[0]["consumed"] is None:
        return {}
    if beyond:
        pool = _rows(
            connection,
            "SELECT id, source, stop_reason, reward FROM trajectories JOIN steps USING (group_id) "
            "WHERE consumed = $consumed AND ($kind = 'batch' OR source = $source) ORDER BY id",
            {"consumed": rows[0]["consumed"], "kind": kind, "source": rows[0]["source"]},
        )
    scored = [
        row
        for row in pool
        if row["reward"] is not None and row["stop_reason"] not in _WORLD_FAILURES
    ]
    values = advantage(np.array([row["reward"] for row in scored], np.float64), kind)
    return {row["id"]: float(value) for row, value in zip(scored, values, strict=True)}
