"""Upgrades: record batches of older schema versions in the current one."""

from __future__ import annotations

from collections.abc import Callable

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
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["source"] = pa.array([""] * len(batch), pa.string())
    schema = SCHEMA.with_metadata({b"wfr.schema_version": b"2"})
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


_STEPS: dict[str, Callable[[pa.RecordBatch], pa.RecordBatch]] = {"1": _tell_source}
