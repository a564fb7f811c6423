"""The index of a journal: complete, incremental, made anew where it does not fit; its queries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspected_run import group_of, trajectory, write_run

from cluster.inspector import queries
from cluster.inspector.index import NAME, Index
from cluster.inspector.queries import ORDERS, Filter, FilterError
from wfr.advantage import advantage
from wfr.journal import Journal
from wfr.trajectory import StopReason

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def opened():
    """Opens indices, reads what is there, and closes them."""
    held = []

    def open_(run, refresh=True):
        index = Index(run)
        held.append(index)
        if refresh:
            index.refresh()
        return index

    yield open_
    for index in held:
        index.close()


def names(index, order="oldest", **chosen):
    with index.cursor() as connection:
        total, rows = queries.page(connection, Filter(**chosen), order=order, count=200)
    assert total == len(rows)
    return [f"{row['group_id']}/{row['sibling']}" for row in rows]


@pytest.fixture
def run(tmp_path):
    """Three groups: 1 was used by the step that trained version 3, 2 by none, 3 failed."""
    return write_run(
        tmp_path / "run",
        group_of(
            trajectory(1, 0, reward=1.0, answer="Ulm", version=1),
            trajectory(1, 1, reward=-0.5, stop_reason=StopReason.OUT_OF_TURNS, source="maths"),
        ),
        group_of(trajectory(2, 0, reward=0.25, question="Whose Seat?", operator_calls=[])),
        group_of(
            trajectory(
                3,
                texts=(),
                reward=float("nan"),
                stop_reason=StopReason.SAMPLER_FAILED,
                error="Traceback",
                messages=[],
            )
        ),
        steps=[(4, [1])],
    )


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, ["1/0", "1/1", "2/0", "3/0"]),
        ({"text": "seat"}, ["2/0"]),
        ({"text": "uLM"}, ["1/0"]),
        ({"text": "TASK-1"}, ["1/0", "1/1"]),
        ({"text": "3"}, ["3/0"]),
        ({"text": "100%_"}, []),
        ({"task": "task-2"}, ["2/0"]),
        ({"stop_reason": "sampler_failed"}, ["3/0"]),
        ({"operator": "Search"}, ["1/0", "1/1", "3/0"]),
        ({"source": "maths"}, ["1/1"]),
        ({"reward_min": 0.25}, ["1/0", "2/0"]),
        ({"reward_max": 0.25}, ["1/1", "2/0"]),
        ({"lag_min": 3}, ["1/1"]),
        ({"lag_max": 2}, ["1/0"]),
        ({"version": 1}, ["1/0"]),
        ({"reward_min": 0.0, "operator": "Search", "lag_max": 9}, ["1/0"]),
    ],
)
def test_filters(opened, run, chosen, found):
    assert names(opened(run), **chosen) == found


def test_orders_and_pages(opened, run):
    index = opened(run)
    assert names(index, "best") == ["1/0", "2/0", "1/1", "3/0"]
    assert names(index, "worst") == ["1/1", "2/0", "1/0", "3/0"]
    assert names(index, "stalest")[:2] == ["1/1", "1/0"]
    with index.cursor() as connection:
        for order in ORDERS:
            pages = [
                row["id"]
                for start in range(0, 6, 2)
                for row in queries.page(connection, Filter(), order=order, start=start, count=2)[1]
            ]
            assert sorted(pages) == [0, 1, 2, 3], order


def test_what_a_row_says(opened, run):
    with opened(run).cursor() as connection:
        row = queries.find(connection, "1", 0)
        facets = queries.facets(connection)
        assert queries.find(connection, "1", 9) is None
        assert queries.siblings(connection, "9", "zscore") == []
        failed = queries.find(connection, "3", 0)
    assert (row["oldest"], row["newest"], row["consumed"], row["lag"]) == (1, 1, 3, 2)
    assert (row["turns"], row["policy_tokens"], row["tokens"], row["seconds"]) == (1, 2, 4, 4.0)
    assert (row["question"], row["operators"], row["failed"]) == ("who?", ["Search"], False)
    assert (failed["reward"], failed["oldest"], failed["failed"]) == (None, None, True)
    assert (facets["trajectories"], facets["groups"]) == (4, 3)
    assert facets["stop_reasons"][0] == {"value": "answered", "n": 2}
    assert facets["sources"] == [{"value": "maths", "n": 1}]


@pytest.mark.parametrize("kind", ["zscore", "centred", "leave_one_out", "batch"])
def test_advantages_are_those_of_the_objective(opened, run, kind):
    with opened(run).cursor() as connection:
        rows = queries.siblings(connection, "1", kind)
        alone = queries.siblings(connection, "2", "batch")
        failed = queries.siblings(connection, "3", "zscore")
    expected = advantage(np.array([1.0, -0.5]), kind)
    assert [row["advantage"] for row in rows] == pytest.approx(list(expected))
    assert alone[0]["advantage"] is None  # no step has used it
    assert failed[0]["advantage"] is None


def test_advantages_within_a_source_and_a_batch(opened, tmp_path):
    groups = [
        group_of(trajectory(n, reward=float(n), source="a" if n < 3 else "b")) for n in range(1, 5)
    ]
    index = opened(write_run(tmp_path / "run", *groups, steps=[(1, [1, 2, 3, 4])]))
    with index.cursor() as connection:
        (first,) = queries.siblings(connection, "1", "source_partitioned")
        (whole,) = queries.siblings(connection, "1", "batch")
    assert first["advantage"] == pytest.approx(-0.5 / 0.5**0.5, abs=1e-4)
    assert whole["advantage"] == pytest.approx(-1.5 / (5 / 3) ** 0.5, abs=1e-4)


def test_a_run_in_progress_grows(opened, run):
    index = opened(run)
    with Journal(run / "journal" / "worker-1") as journal:
        journal.append(group_of(trajectory(7)))
        assert index.refresh() == 1
        assert index.refresh() == 0
        journal.append(group_of(trajectory(8)))
        assert index.refresh() == 1
    write_run(run, steps=[(9, [7]), (10, [7, 1])])  # replays are no first uses
    index.refresh()
    with index.cursor() as connection:
        assert queries.find(connection, "7", 0)["consumed"] == 8
        assert queries.find(connection, "1", 0)["consumed"] == 3
    assert names(index)[-2:] == ["7/0", "8/0"]


def test_an_index_is_kept_and_goes_on(opened, run):
    opened(run).close()
    again = opened(run, refresh=False)
    assert names(again) == ["1/0", "1/1", "2/0", "3/0"]
    assert again.refresh() == 0
    assert names(again, lag_min=0) == ["1/0", "1/1"]


def test_a_run_directory_may_move(opened, run, monkeypatch):
    opened(run).close()
    moved = run.rename(run.with_name("moved"))
    monkeypatch.chdir(moved.parent)
    index = opened(Path("moved"), refresh=False)  # by another way, too
    assert index.refresh() == 0
    with index.cursor() as connection:
        row = queries.find(connection, "1", 1)
        assert queries.place_of(connection, index.run, row).read().num_rows == 2


def test_a_journal_alone_gets_no_file(opened, run):
    index = opened(run / "journal")
    assert len(names(index)) == 4
    assert [path.name for path in (run / "journal").iterdir()] == ["worker-0"]


def test_another_run_of_the_same_name_is_indexed_anew(opened, run):
    opened(run).close()
    shutil.rmtree(run / "journal")
    (run / "metrics.jsonl").unlink()
    write_run(run, group_of(trajectory(5)))
    assert names(opened(run)) == ["5/0"]


def test_an_index_of_another_layout_or_a_broken_one(opened, run):
    index = opened(run)
    with index.cursor() as connection:
        connection.execute("UPDATE layout SET version = 0")
    index.close()
    assert len(names(opened(run))) == 4
    (run / NAME).write_bytes(b"not a database" * 1000)
    assert len(names(opened(run))) == 4


def test_two_inspectors_of_one_run(opened, run, tmp_path):
    opened(run)
    code = (
        "import sys; from pathlib import Path; from cluster.inspector.index import Index; "
        "index = Index(Path(sys.argv[1])); print(index.refresh()); index.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "3", done.stderr


def test_empty_runs(opened, tmp_path):
    index = opened(write_run(tmp_path / "run"))
    assert names(index) == []
    with index.cursor() as connection:
        assert queries.facets(connection)["trajectories"] == 0
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=r"no such directory|neither a run"):
            Index(path)


@pytest.mark.parametrize("cut", [1, 40, 900])
def test_a_crashed_run_shows_what_is_whole(opened, run, cut):
    (path,) = (run / "journal").glob("*/*.arrow")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 8 - cut])  # 8: the end mark
    index = opened(run)
    assert names(index) == ["1/0", "1/1", "2/0"]
    with index.cursor() as connection:
        assert queries.facets(connection)["damaged"] == 1


def test_damage_anywhere_costs_one_group(opened, run):
    (path,) = (run / "journal").glob("*/*.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    index = opened(run)
    with index.cursor() as connection:
        assert queries.facets(connection)["damaged"] == 1
    assert len(names(index)) in (2, 3)


def test_a_torn_line_of_the_index_is_read_once_it_is_whole(opened, run):
    (path,) = (run / "journal").glob("*/*.index")
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    index = opened(run)
    assert names(index) == ["1/0", "1/1", "2/0"]
    path.write_bytes(data)
    index.refresh()
    assert names(index) == ["1/0", "1/1", "2/0", "3/0"]


def older(batch):
    """The batch as schema version 3 had it."""
    column = batch.column("operator_calls")
    fields = [f for f in column.type.value_type if f.name not in ("turn", "ended_at")]
    plain = pa.StructArray.from_arrays([column.values.field(f.name) for f in fields], fields=fields)
    lists = pa.ListArray.from_arrays(column.offsets, plain)
    index = batch.schema.get_field_index("operator_calls")
    changed = batch.set_column(index, "operator_calls", lists)
    return changed.replace_schema_metadata({"wfr.schema_version": "3"})


def test_an_older_schema_and_a_journal_without_indices(opened, tmp_path):
    directory = tmp_path / "journal"
    directory.mkdir()
    batch = older(group_of(trajectory(1), trajectory(1, 1)))
    with pa.ipc.new_stream(directory / "000001.arrow", batch.schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(older(group_of(trajectory(2))))
    index = opened(directory)  # a journal alone
    assert names(index) == ["1/0", "1/1", "2/0"]
    with index.cursor() as connection:
        row = queries.find(connection, "2", 0)
        found = queries.place_of(connection, directory, row).read()
    assert found.column("operator_calls")[0].as_py()[0]["turn"] == -1


def test_an_unknown_schema_is_said_and_the_rest_is_shown(opened, run):
    strange = group_of(trajectory(9)).replace_schema_metadata({"wfr.schema_version": "99"})
    with Journal(run / "journal" / "worker-0") as journal:
        journal.append(strange)
    write_run(run, group_of(trajectory(10)), writer="worker-1")
    index = opened(run)
    (problem,) = index.problems.values()
    assert "schema version 99" in problem
    assert names(index)[-1] == "10/0"


def test_what_is_no_number_is_refused():
    assert Filter.of({"reward_min": "-0.5", "version": " 3 ", "text": "x"}) == Filter(
        text="x", reward_min=-0.5, version=3
    )
    for key, value in (("reward_min", "high"), ("lag_max", "1.5"), ("version", "x" * 99)):
        with pytest.raises(FilterError, match=key):
            Filter.of({key: value})


@given(st.dictionaries(st.sampled_from(["text", "task", "operator"]), st.text(max_size=30)))
@settings(max_examples=40)
def test_no_text_breaks_a_query(tiny, chosen):
    with tiny.cursor() as connection:
        total, rows = queries.page(connection, Filter.of(chosen))
    assert len(rows) == total <= 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    index = Index(write_run(tmp_path_factory.mktemp("tiny"), group_of(trajectory(1))))
    index.refresh()
    yield index
    index.close()
