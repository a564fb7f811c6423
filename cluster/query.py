"""SQL over what a run has left, with DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from wfr.config import ConfigError
from wfr.recording import read_table


def query(run: Path, sql: str) -> pa.Table:
    """Answer a query over the tables of a run.

    `trajectories` has the journal's columns, one row per trajectory; `metrics` has one row per line
    of metrics.jsonl.

    Raises:
        ConfigError: the directory holds no run, or the query is wrong.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such directory; give a run directory, or a journal")
    with duckdb.connect() as connection:
        connection.register("trajectories", read_table(run))
        log = run / "metrics.jsonl"
        if log.exists() and log.stat().st_size:
            relation = connection.read_json(
                str(log), format="newline_delimited", ignore_errors=True, sample_size=-1
            )
            relation.create_view("metrics")
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise ConfigError(f"--sql: {error}") from None
