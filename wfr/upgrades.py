"""Upgrades: record batches of older schema versions in the current one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from wfr.schema import SCHEMA, SCHEMA_VERSION, check_version, schema_version


def upgrade(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in the current schema; raises SchemaVersionError for a version unknown here."""
    version = schema_version(batch.schema)
    if version == str(SCHEMA_VERSION):
        return batch
    if version not in _STEPS:
        check_version(batch.schema)
    return upgrade(_STEPS[version](batch))


def _tell_source(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 1 did not say where a task came from: all of its tasks count as of one source."""
    return _of_version(2, _columns(batch) | {"source": pa.array([""] * len(batch), pa.string())})


def _tell_contexts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 2 knew one context per trajectory, from its first token on."""
    count = len(batch.column("turns").values)
    return _of_version(3, _with_fields(batch, "turns", pa.array([0] * count, pa.int32())))


def _tell_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Version 3 did not say which turn made an operator call, and when that ended."""
    count = len(batch.column("operator_calls").values)
    turn, ended_at = pa.array([-1] * count, pa.int32()), pa.array([0.0] * count, pa.float64())
    return _of_version(4, _with_fields(batch, "operator_calls", turn, ended_at))


def _with_fields(batch: pa.RecordBatch, name: str, *more: pa.Array) -> dict[str, pa.Array]:
    """The columns, with `more` as the last fields of the records in one of them."""
    column, kind = batch.column(name), SCHEMA.field(name).type.value_type
    records = pa.StructArray.from_arrays([*column.values.flatten(), *more], fields=list(kind))
    return _columns(batch) | {name: pa.ListArray.from_arrays(column.offsets, records)}


def _columns(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {name: batch.column(name) for name in batch.schema.names}


def _of_version(version: int, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The columns in the order of the current schema, with their own types."""
    fields = [pa.field(name, columns[name].type) for name in SCHEMA.names]
    schema = pa.schema(fields, metadata={b"wfr.schema_version": str(version).encode()})
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=schema)


_STEPS: dict[str, Callable[[pa.RecordBatch], pa.RecordBatch]] = {
    "1": _tell_source,
    "2": _tell_contexts,
    "3": _tell_times,
}
