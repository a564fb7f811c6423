"""The Arrow schema of trajectories: wire format and disk format, versioned.

One row is one trajectory, one record batch is one group. Reading makes no copy of the three token
columns: the arrays of a trajectory are read-only views into the batch.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from wfr.trajectory import (
    Group,
    Message,
    OperatorCall,
    StopReason,
    Trajectory,
    Turn,
    TurnKind,
    VersionSpan,
)

SCHEMA_VERSION = 4
_VERSION_KEY = b"wfr.schema_version"


class SchemaVersionError(ValueError):
    """Data of another schema version; the text holds both numbers."""


def _make_turn(start: int, end: int, observation_end: int, kind: str, *rest: Any) -> Turn:
    return Turn(start, end, observation_end, TurnKind(kind), *rest)


def _list_of(**fields: pa.DataType) -> pa.ListType:
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields.items()]))


_TOKEN_COLUMNS = {"tokens": pa.int32(), "turn_id": pa.int16(), "behaviour_logprob": pa.float32()}
_RECORD_COLUMNS: dict[str, tuple[Callable[..., Any], pa.ListType]] = {
    "version_spans": (VersionSpan, _list_of(start=pa.int32(), end=pa.int32(), version=pa.int64())),
    "turns": (
        _make_turn,
        _list_of(
            start=pa.int32(),
            end=pa.int32(),
            observation_end=pa.int32(),
            kind=pa.string(),
            finish_reason=pa.string(),
            operator=pa.string(),
            context=pa.int32(),
        ),
    ),
    "messages": (Message, _list_of(role=pa.string(), content=pa.string())),
    "operator_calls": (
        OperatorCall,
        _list_of(
            operator=pa.string(),
            backend=pa.string(),
            seconds=pa.float64(),
            prompt_tokens=pa.int64(),
            completion_tokens=pa.int64(),
            cost_usd=pa.float64(),
            cache_hit=pa.bool_(),
            status=pa.string(),
            turn=pa.int32(),
            ended_at=pa.float64(),
        ),
    ),
}
_PLAIN_COLUMNS = {
    "run_id": pa.string(),
    "task_id": pa.string(),
    "group_id": pa.string(),
    "sibling": pa.int32(),
    "stop_reason": pa.string(),
    "reward": pa.float64(),
    "source": pa.string(),
    "answer": pa.string(),
    "error": pa.string(),
    "started_at": pa.float64(),
    "finished_at": pa.float64(),
}
_PARTS = pa.map_(pa.string(), pa.float64())

SCHEMA = pa.schema(
    [
        *((name, kind) for name, kind in _PLAIN_COLUMNS.items()),
        ("admitted_version", pa.int64()),
        ("reward_parts", _PARTS),
        *((name, pa.list_(kind)) for name, kind in _TOKEN_COLUMNS.items()),
        *((name, kind) for name, (_, kind) in _RECORD_COLUMNS.items()),
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def schema_version(schema: pa.Schema) -> str:
    """The version that a schema says it is of; `none` where it says nothing."""
    return str((schema.metadata or {}).get(_VERSION_KEY, b"none").decode())


def check_version(schema: pa.Schema) -> None:
    """Raise SchemaVersionError unless `schema` is of the version that this code reads."""
    found = schema_version(schema)
    if found != str(SCHEMA_VERSION):
        raise SchemaVersionError(
            f"trajectories of schema version {found}; this version of wfr reads {SCHEMA_VERSION}"
        )


def to_batch(group: Group) -> pa.RecordBatch:
    """One group as one record batch; raises ValueError for an empty or mixed group."""
    rows = group.trajectories
    if not rows:
        raise ValueError(f"group {group.group_id}: no trajectories")
    for row in rows:
        if (row.group_id, row.task_id) != (group.group_id, group.task_id):
            raise ValueError(
                f"group {group.group_id} of task {group.task_id}: holds a trajectory of group "
                f"{row.group_id} of task {row.task_id}"
            )
    columns = dict(zip(_PLAIN_COLUMNS, _arrays(rows, _PLAIN_COLUMNS), strict=True))
    columns["admitted_version"] = pa.array([group.admitted_version] * len(rows), pa.int64())
    columns["reward_parts"] = pa.array([list(row.reward_parts.items()) for row in rows], _PARTS)
    for name, kind in _TOKEN_COLUMNS.items():
        columns[name] = _join_arrays([getattr(row, name) for row in rows], kind)
    for name, (_, list_kind) in _RECORD_COLUMNS.items():
        columns[name] = _join_records([getattr(row, name) for row in rows], list_kind)
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def from_batch(batch: pa.RecordBatch) -> Group:
    """The group in a record batch; its token arrays are read-only views of the batch.

    Raises:
        SchemaVersionError: the batch is of another schema version.
        ValueError: the batch does not hold exactly one group.
    """
    check_version(batch.schema)
    group_id, task_id = single_group(batch)
    plain = {name: batch.column(name).to_pylist() for name in _PLAIN_COLUMNS}
    plain["stop_reason"] = [StopReason(reason) for reason in plain["stop_reason"]]
    columns: dict[str, Sequence[Any]] = {
        **plain,
        "reward_parts": [dict(parts) for parts in batch.column("reward_parts").to_pylist()],
        **{name: list(_split_arrays(batch.column(name))) for name in _TOKEN_COLUMNS},
        **{
            name: list(_split_records(batch.column(name), make))
            for name, (make, _) in _RECORD_COLUMNS.items()
        },
    }
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return Group(
        group_id=group_id,
        task_id=task_id,
        admitted_version=batch.column("admitted_version")[0].as_py(),
        trajectories=[Trajectory(**dict(zip(names, row, strict=True))) for row in rows],
    )


def single_group(batch: pa.RecordBatch) -> tuple[str, str]:
    """Group and task of a record batch; raises ValueError unless it holds exactly one group."""
    columns = (batch.column(name).to_pylist() for name in ("group_id", "task_id"))
    groups = set(zip(*columns, strict=True))
    if len(groups) != 1:
        raise ValueError(f"a record batch holds {len(groups)} groups, expected exactly one")
    ((group_id, task_id),) = groups
    return group_id, task_id


def _offsets(rows: Sequence[Any]) -> pa.Array:
    # From a list: on the few rows of a group NumPy takes longer.
    return pa.array(list(itertools.accumulate(map(len, rows), initial=0)), pa.int32())


def _join_arrays(arrays: Sequence[np.ndarray], kind: pa.DataType) -> pa.ListArray:
    values = np.concatenate(arrays)
    assert values.dtype == kind.to_pandas_dtype(), (values.dtype, kind)
    return pa.ListArray.from_arrays(_offsets(arrays), pa.array(values, kind))


def _join_records(rows: Sequence[Sequence[Any]], kind: pa.ListType) -> pa.ListArray:
    fields = list(kind.value_type)
    flat = list(itertools.chain.from_iterable(rows))
    values = _arrays(flat, {field.name: field.type for field in fields})
    return pa.ListArray.from_arrays(
        _offsets(rows), pa.StructArray.from_arrays(values, fields=fields)
    )


def _arrays(records: Sequence[Any], fields: Mapping[str, pa.DataType]) -> list[pa.Array]:
    """One array per field of the records; two fields or more are read off each record at once."""
    read = map(operator.attrgetter(*fields), records)
    values = zip(*read, strict=True) if records else ((),) * len(fields)
    return [pa.array(v, kind) for v, kind in zip(values, fields.values(), strict=True)]


def _split_arrays(column: pa.ListArray) -> Iterator[np.ndarray]:
    values = column.values.to_numpy(zero_copy_only=True)
    offsets = column.offsets.to_pylist()
    for start, end in itertools.pairwise(offsets):
        yield values[start:end]


def _split_records(column: pa.ListArray, make: Callable[..., Any]) -> Iterator[list[Any]]:
    """The records of each row; fields go to `make` by position, in the order of the schema."""
    fields = [array.to_pylist() for array in column.values.flatten()]
    records = [make(*values) for values in zip(*fields, strict=True)]
    offsets = column.offsets.to_pylist()
    for start, end in itertools.pairwise(offsets):
        yield records[start:end]
