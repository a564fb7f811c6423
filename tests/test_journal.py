import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from wfr import line_log
from wfr.journal import Journal, read_journal
from wfr.line_log import Sync, read_lines
from wfr.schema import SchemaVersionError, from_batch, to_batch
from wfr.trajectory import Group, StopReason, Trajectory


def batch(number: int) -> pa.RecordBatch:
    row = Trajectory(
        *("run", "task", f"g{number}", 0),
        tokens=np.full(10 + number % 7, number, np.int32),
        turn_id=np.full(10 + number % 7, -1, np.int16),
        behaviour_logprob=np.zeros(10 + number % 7, np.float32),
        version_spans=[],
        turns=[],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=1.0,
    )
    return to_batch(Group(f"g{number}", "task", number, [row]))


def numbers(reader) -> list[int]:
    return [from_batch(b).admitted_version for b in reader]


def test_reads_what_was_written_in_order(tmp_path):
    with Journal(tmp_path) as journal:
        for number in range(5):
            journal.append(batch(number))
        before_close = read_journal(tmp_path)
        assert (numbers(before_close), before_close.torn_bytes) == ([0, 1, 2, 3, 4], 0)
    reader = read_journal(tmp_path)
    assert list(reader) == [batch(number) for number in range(5)]
    assert reader.torn_bytes == 0


def test_files_rotate_by_size_and_a_restart_begins_a_new_one(tmp_path):
    for first in (0, 3):
        with Journal(tmp_path, max_bytes=1) as journal:
            for number in range(first, first + 3):
                journal.append(batch(number))
    assert [p.name for p in sorted(tmp_path.glob("*.arrow"))] == [
        f"{n:06d}.arrow" for n in range(1, 7)
    ]
    assert numbers(read_journal(tmp_path)) == [0, 1, 2, 3, 4, 5]


def test_any_file_opens_with_plain_pyarrow(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(batch(3))
    table = pa.ipc.open_stream(tmp_path / "000001.arrow").read_all()
    assert table["group_id"].to_pylist() == ["g3"]


def test_batches_outlive_the_reader(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(batch(3))
    (first,) = list(read_journal(tmp_path))
    (tmp_path / "000001.arrow").unlink()
    assert from_batch(first).trajectories[0].tokens.tolist() == [3] * 13


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """The bytes of a file of two groups, and where the header and each group end."""
    directory = tmp_path_factory.mktemp("journal")
    path = directory / "000001.arrow"
    ends = []
    with Journal(directory) as journal:
        for number in range(2):
            journal.append(batch(number))
            ends.append(path.stat().st_size)
    return path.read_bytes(), ends


@pytest.fixture
def cut(tmp_path):
    """`cut(data)`: groups and torn bytes of a journal whose first file is `data`."""
    with Journal(tmp_path) as journal:
        journal.append(batch(9))
    for suffix in ("arrow", "index"):
        (tmp_path / f"000001.{suffix}").rename(tmp_path / f"000002.{suffix}")

    def read(data: bytes) -> tuple[list[int], int]:
        (tmp_path / "000001.arrow").write_bytes(data)
        reader = read_journal(tmp_path)
        return [b.column("admitted_version")[0].as_py() for b in reader], reader.torn_bytes

    return read


DAMAGE = {
    "torn": lambda data, at: data[:at],
    "bit": lambda data, at: data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :],
    "zeros": lambda data, at: data[:at] + b"\0" * (len(data) - at),
    "garbage": lambda data, at: data[:at] + b"\xa5" * 99,
}


@pytest.mark.parametrize("suffix", ["arrow", "index"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_anywhere_loses_what_it_hit_and_nothing_else(tmp_path, kind, suffix):
    """Of ten groups, all come back whose bytes are as they were, and no other."""
    with Journal(tmp_path) as journal:
        for number in range(10):
            journal.append(batch(number))
    path = tmp_path / f"000001.{suffix}"
    data = path.read_bytes()
    ends = _ends(tmp_path, suffix)
    for at in sorted({*range(0, len(data), 211), *(e + d for e in ends[:-1] for d in (-1, 0, 1))}):
        damaged = DAMAGE[kind](data, at)
        path.write_bytes(damaged)
        found = numbers(read_journal(tmp_path))
        spans = [slice(*span) for span in itertools.pairwise(ends)]
        intact = [number for number in range(10) if damaged[spans[number]] == data[spans[number]]]
        if data[at] == ord("\n") and suffix == "index":  # a lost line end joins two lines
            intact = [number for number in intact if ends[number] != at + 1 or kind != "bit"]
        assert found == intact, at


def _ends(directory, suffix):
    """Where the head and each of the ten groups end."""
    index = (directory / "000001.index").read_bytes().splitlines(keepends=True)
    if suffix == "index":
        return list(itertools.accumulate(map(len, index)))
    lines = list(read_lines(directory / "000001.index"))
    return [lines[0]["header"], *(line["at"] + line["size"] for line in lines[1:])]


def test_a_group_that_the_disk_refuses_leaves_nothing_and_can_be_appended_later(tmp_path):
    """The file-size limit of this process stands in for a full disk: both cut a write short."""
    journal = Journal(tmp_path)
    journal.append(batch(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (7000, hard))
        with pytest.raises(OSError, match="File too large"):
            journal.append(batch(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert numbers(read_journal(tmp_path)) == [0]
    journal.append(batch(1))
    journal.close()
    reader = read_journal(tmp_path)
    assert (numbers(reader), reader.torn_bytes) == ([0, 1], 0)


def _without(batch, version, name, *dropped):
    """The batch of a version in which the records of one column had fewer fields."""
    column = batch.column(name)
    fields = [field for field in column.type.value_type if field.name not in dropped]
    values = [column.values.field(field.name) for field in fields]
    plain = pa.StructArray.from_arrays(values, fields=fields)
    lists = pa.ListArray.from_arrays(column.offsets, plain)
    old = batch.set_column(batch.schema.get_field_index(name), name, lists)
    return old.replace_schema_metadata({b"wfr.schema_version": str(version).encode()})


def _of_version_3(new):
    """Operator calls did not say which turn made them, and when they ended."""
    return _without(new, 3, "operator_calls", "turn", "ended_at")


def _of_version_2(new):
    """Turns did not say where their context begins."""
    return _without(_of_version_3(new), 2, "turns", "context")


def _of_version_1(new):
    """Nothing said where a task came from, either."""
    old = _of_version_2(new).drop_columns("source")
    return old.replace_schema_metadata({b"wfr.schema_version": b"1"})


@pytest.mark.parametrize("older", [_of_version_1, _of_version_2, _of_version_3])
def test_a_journal_of_an_older_schema_version_reads_as_the_current_one(tmp_path, older):
    new = batch(3)
    old = older(new)
    schema = old.schema
    with pa.ipc.new_stream(tmp_path / "000001.arrow", schema) as writer:  # without an index
        writer.write_batch(old)
    with Journal(tmp_path) as journal:
        journal.append(old)
    assert list(read_journal(tmp_path)) == [new, new]


@pytest.mark.parametrize("policy", ["always", "interval", "off"])
def test_policy_decides_when_the_disk_is_forced(tmp_path, policy, monkeypatch):
    now, forced = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    real = os.fsync
    journal = Journal(tmp_path, sync=Sync(policy, interval_s=5))
    journal.append(batch(0))
    monkeypatch.setattr("os.fsync", lambda file: forced.append(real(file)))
    counts = []
    for _ in range(6):
        now[0] += 1
        journal.append(batch(1))
        counts.append(len(forced))
    # Twice each time: the group, then the line that vouches for it.
    expected = {"always": [2, 4, 6, 8, 10, 12], "interval": [0, 0, 0, 0, 2, 2], "off": [0] * 6}
    assert counts == expected[policy]
    journal.close()


def test_truncation_anywhere_loses_the_torn_group_only(small_file, cut):
    """Every group that was whole comes back, and so does what a restarted journal wrote."""
    data, ends = small_file
    header = pa.BufferReader(data)
    pa.ipc.open_stream(header)
    starts = [0, header.tell(), *ends, len(data)]
    near = {max(0, min(len(data), end + step)) for end in starts for step in range(-9, 10)}
    for size in sorted(near | set(range(0, len(data), 37))):
        found, torn = cut(data[:size])
        assert found == [*range(sum(size >= end for end in ends)), 9], size
        assert torn == size - max(start for start in starts if start <= size), size


@pytest.mark.parametrize(
    "tail", [b"\0" * 64, b"\xff" * 64, b"garbage" * 9], ids=["zeros", "ones", "garbage"]
)
def test_garbage_after_the_last_whole_group_is_counted(small_file, cut, tail):
    data, ends = small_file
    found, torn = cut(data[: ends[0]] + tail)
    assert found == [0, 9]
    assert 0 < torn <= len(tail)


def test_another_schema_version_is_refused_not_called_torn(tmp_path):
    other = batch(1).replace_schema_metadata({"wfr.schema_version": "0"})
    with pa.ipc.new_stream(tmp_path / "000001.arrow", other.schema) as writer:
        writer.write_batch(other)
    with pytest.raises(SchemaVersionError):
        list(read_journal(tmp_path))


WRITER = """
import itertools, sys
sys.path.insert(0, {tests!r})
from test_journal import batch
from wfr.journal import Journal
journal = Journal(sys.argv[1], max_bytes=20_000)
for number in itertools.count():
    journal.append(batch(number))
    print(number, flush=True)
"""


def test_killed_writer_loses_nothing_that_append_returned(tmp_path):
    script = WRITER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        for line in writer.stdout:
            if int(line) >= 40:
                break
        writer.send_signal(signal.SIGKILL)
        promised = [int(line), *map(int, writer.stdout.read().split())][-1]
    found = numbers(read_journal(tmp_path))
    assert found == list(range(len(found)))
    assert len(found) >= promised + 1


def test_reading_a_group_reads_one_line_of_the_index(tmp_path, monkeypatch):
    """A whole journal costs as many lines as it has, not their square."""
    with Journal(tmp_path) as journal:
        for number in range(50):
            journal.append(batch(number))
    decoded = []
    decode = line_log._decode
    monkeypatch.setattr(line_log, "_decode", lambda line: decoded.append(line) or decode(line))
    assert numbers(read_journal(tmp_path)) == list(range(50))
    assert len(decoded) <= 2 * 50 + 2
