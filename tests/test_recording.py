"""What a run has left opens everywhere, answers SQL, and can be trained on."""

from __future__ import annotations

import json

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.cli import app
from wfr.config import ConfigError, parse_config
from wfr.journal import Journal
from wfr.recording import Recording, for_recording, read_table
from wfr.schema import to_batch
from wfr.trajectory import Group, Message, StopReason, Trajectory, Turn, TurnKind, VersionSpan


def group(number, *, version=0, finished=0.0, reasons=(StopReason.ANSWERED,) * 2):
    rows = [
        Trajectory(
            *("run", f"task-{number}", str(number), sibling),
            tokens=np.array([7, 8, 9, 9], np.int32),
            turn_id=np.array([-1, -1, 0, 0], np.int16),
            behaviour_logprob=np.array([0, 0, -0.5, -0.25], np.float32),
            version_spans=[VersionSpan(2, 4, version)],
            turns=[Turn(2, 4, 4, TurnKind.ANSWER, "stop")],
            messages=[Message("user", "?")],
            stop_reason=reason,
            reward=float(sibling),
            reward_parts={"correct": float(sibling)},
            finished_at=finished or float(number),
        )
        for sibling, reason in enumerate(reasons)
    ]
    return to_batch(Group(str(number), f"task-{number}", version, rows))


def write(directory, *batches, worker="worker-0"):
    with Journal(directory / "journal" / worker) as journal:
        for batch in batches:
            journal.append(batch)


@pytest.fixture
def run(tmp_path):
    """A run of two workers and two steps of two groups; group 4 was never used."""
    write(tmp_path, group(0), group(2), group(4))
    write(tmp_path, group(1), group(3, version=1), worker="worker-1")
    steps = [
        {"kind": "step", "version": 1, "groups": [0, 2], "reward/mean": 0.5},
        {"kind": "eval", "version": 1, "em": 0.25},
        {"kind": "step", "version": 2, "groups": [1, 3], "groups/replayed": [0]},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    return tmp_path


def test_one_line_in_pyarrow_duckdb_polars_and_pandas(run):
    path = run / "journal" / "worker-0" / "000001.arrow"
    rows = pa.ipc.open_stream(path).read_all()
    assert rows["reward"].to_pylist() == [0.0, 1.0] * 3
    frame = pandas.DataFrame(pa.ipc.open_stream(path).read_all().to_pandas())
    assert frame.tokens[0].tolist() == [7, 8, 9, 9]
    lazy = polars.from_arrow(pa.ipc.open_stream(path).read_all())
    assert lazy["turn_id"][5].to_list() == [-1, -1, 0, 0]
    assert lazy["reward_parts"].to_list()[1] == {"correct": 1.0}
    assert duckdb.sql("SELECT sum(len(tokens)), max(turns[1].kind) FROM rows").fetchall() == [
        (24, "answer")
    ]


def test_all_workers_of_a_run_in_one_table_without_a_copy(run):
    before = pa.total_allocated_bytes()
    table = read_table(run)
    assert table.num_rows == 10
    assert pa.total_allocated_bytes() - before < 10_000
    assert read_table(run / "journal").num_rows == 10
    assert read_table(run / "journal" / "worker-1").num_rows == 4


def test_sql_over_trajectories_and_metrics(run):
    runner = CliRunner()
    sql = "SELECT group_id, avg(reward) AS mean FROM trajectories GROUP BY 1 ORDER BY 1 LIMIT 2"
    found = runner.invoke(app, ["inspect", str(run), "--sql", sql, "--json"])
    assert json.loads(found.stdout) == [
        {"group_id": "0", "mean": 0.5},
        {"group_id": "1", "mean": 0.5},
    ]
    sql = "SELECT version, groups FROM metrics WHERE kind = 'step'"
    found = runner.invoke(app, ["inspect", str(run), "--sql", sql, "--json"])
    assert json.loads(found.stdout)[1] == {"version": 2, "groups": [1, 3]}
    assert (
        "behaviour_logprob"
        in runner.invoke(app, ["inspect", str(run), "--sql", "DESCRIBE trajectories"]).stdout
    )


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT nonsense FROM trajectories", "nonsense"),
        ("SELEKT 1", "syntax error"),
    ],
)
def test_a_wrong_query_is_refused_with_the_reason(run, sql, words):
    found = CliRunner().invoke(app, ["inspect", str(run), "--sql", sql])
    assert found.exit_code == 2
    assert words in found.stderr


def test_a_directory_that_is_none_is_refused(tmp_path):
    found = CliRunner().invoke(app, ["inspect", str(tmp_path / "absent")])
    assert (found.exit_code, "no such directory" in found.stderr) == (2, True)


def ids(batch):
    return [int(each.column("group_id")[0].as_py()) for each in batch.groups]


def test_a_run_directory_repeats_the_runs_own_batches(run):
    first, second = Recording(run).batches(groups_per_batch=9, min_scored=2)
    assert (first.version, ids(first), first.max_lag) == (0, [0, 2], 0)
    assert (second.version, ids(second), second.max_lag) == (1, [1, 3, 0], 1)


def test_a_journal_alone_gives_batches_in_the_order_of_finishing(run):
    batches = Recording(run / "journal").batches(groups_per_batch=2, min_scored=2)
    assert [(batch.version, ids(batch)) for batch in batches] == [(0, [0, 1]), (1, [2, 3])]


def test_groups_with_too_few_scored_siblings_are_left_out(tmp_path):
    failed = (StopReason.ANSWERED, StopReason.BACKEND_FAILED)
    write(tmp_path, group(0), group(1, reasons=failed), group(2))
    assert [ids(b) for b in Recording(tmp_path).batches(2, 2)] == [[0, 2]]
    assert [ids(b) for b in Recording(tmp_path).batches(1, 1)] == [[0], [1], [2]]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_no_token_is_newer_than_the_version_that_consumes_it(tmp_path_factory, versions, size):
    directory = tmp_path_factory.mktemp("run")
    write(directory, *(group(n, version=v, finished=n + 1) for n, v in enumerate(versions)))
    if size > len(versions):
        with pytest.raises(ConfigError, match="do not fill a batch"):
            Recording(directory).batches(size, 2)
        return
    batches = Recording(directory).batches(size, 2)
    start = batches[0].version
    for index, batch in enumerate(batches):
        own = [versions[n] for n in ids(batch)]
        assert batch.version == start + index >= max(own)
        assert batch.max_lag == batch.version - min(own)
    used = versions[: len(batches) * size]
    assert start == max(0, *(v - n // size for n, v in enumerate(used)))


def test_an_offline_run_takes_director_bound_and_length_from_recording_and_configuration(run):
    (run / "base").mkdir()
    config, batches = for_recording(
        parse_config({"buffer": {"max_lag": 0}, "train": {"groups_per_batch": 2}}), Recording(run)
    )
    assert (config.buffer.max_lag, config.model.path) == (1, str(run / "base"))
    assert len(batches) == 2
    short = parse_config({"train": {"steps": 1, "groups_per_batch": 2}, "model": {"path": "/m"}})
    config, batches = for_recording(short, Recording(run))
    assert (len(batches), config.model.path) == (1, "/m")


@pytest.mark.parametrize(
    ("missing", "words"),
    [("run", "neither a run directory nor a journal"), ("groups", "no group was recorded")],
)
def test_what_holds_no_recording_is_refused(tmp_path, missing, words):
    if missing == "groups":
        (tmp_path / "journal").mkdir()
    path = tmp_path if missing == "groups" else tmp_path / "absent"
    with pytest.raises(ConfigError, match=words):
        Recording(path)


def test_a_step_whose_group_is_gone_is_named(run):
    (run / "metrics.jsonl").write_text('{"kind": "step", "version": 1, "groups": [0, 77]}\n{"ki')
    with pytest.raises(ConfigError, match="group 77, which is not in the journal"):
        Recording(run).batches(2, 2)
