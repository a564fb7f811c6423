"""What training reads agrees with the records, and is made of views."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trajectory import trajectories

from wfr.columns import Episode, view, views
from wfr.schema import SchemaVersionError, to_batch
from wfr.spill import SpillDirectory
from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan

groups = st.lists(trajectories(), min_size=1, max_size=4).map(lambda rows: Group("g", "t", 0, rows))


@given(groups)
@settings(max_examples=100, deadline=None)
def test_view_says_what_the_records_say(group):
    seen = view(to_batch(group))
    assert (seen.group_id, seen.task_id) == ("g", "t")
    for episode, record in zip(seen.trajectories, group.trajectories, strict=True):
        for name in ("tokens", "turn_id", "behaviour_logprob"):
            assert np.array_equal(getattr(episode, name), getattr(record, name))
        assert list(episode.turn_oldest_version()) == list(record.turn_oldest_version())
        assert list(episode.token_versions()) == list(record.token_versions())
        assert list(episode.turn_context()) == list(record.turn_context())
        assert len(episode.turns) == len(record.turns)
        for name in ("sibling", "source", "stop_reason", "reward_parts", "policy_tokens"):
            assert getattr(episode, name) == getattr(record, name)
        assert episode.reward == record.reward or np.isnan(record.reward)
    assert len(seen.scored) == len(group.scored)


@given(st.lists(groups, max_size=4))
@settings(max_examples=50, deadline=None)
def test_groups_mapped_together_are_as_each_alone(many):
    batches = [to_batch(named(group, f"g{n}")) for n, group in enumerate(many)]
    together = views(batches)
    assert [group.group_id for group in together] == [f"g{n}" for n in range(len(many))]
    for seen, batch in zip(together, batches, strict=True):
        alone = view(batch)
        for episode, other in zip(seen.trajectories, alone.trajectories, strict=True):
            for field in dataclasses.fields(Episode):
                a, b = getattr(episode, field.name), getattr(other, field.name)
                assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b or a != a


def test_of_groups_mapped_together_the_one_at_fault_is_named():
    groups = [named(long_group(10), name) for name in ("first", "second", "third")]
    for row in groups[1].trajectories:
        row.version_spans = []
    with pytest.raises(ValueError, match="group second: a turn without a weight version"):
        views([to_batch(group) for group in groups])


def named(group, name):
    rows = [dataclasses.replace(row, group_id=name) for row in group.trajectories]
    return dataclasses.replace(group, group_id=name, trajectories=rows)


@given(groups, groups)
@settings(max_examples=30, deadline=None)
def test_view_of_a_slice(first, second):
    table = pa.Table.from_batches([to_batch(first), to_batch(second)]).combine_chunks()
    piece = table.to_batches()[0].slice(len(first.trajectories))
    for episode, record in zip(view(piece).trajectories, second.trajectories, strict=True):
        assert episode.tokens.tolist() == record.tokens.tolist()
        assert list(episode.oldest) == list(record.turn_oldest_version())
        versions = record.token_versions()
        newest = [versions[turn.start : turn.end].max() for turn in record.turns]
        assert list(episode.newest) == newest
        assert list(episode.token_versions()) == list(record.token_versions())
        assert episode.policy_tokens == record.policy_tokens


def long_group(tokens=50_000):
    (row,) = Group("g", "t", 0, [_row(tokens)]).trajectories
    return Group("g", "t", 0, [row, row])


def _row(tokens):
    return Trajectory(
        *("run", "t", "g", 0),
        tokens=np.arange(tokens, dtype=np.int32),
        turn_id=np.where(np.arange(tokens) < 2, -1, 0).astype(np.int16),
        behaviour_logprob=np.zeros(tokens, np.float32),
        version_spans=[VersionSpan(2, tokens, 3)],
        turns=[Turn(2, tokens, tokens, TurnKind.ANSWER, "stop")],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=1.0,
    )


def test_no_copy_of_a_token_column_and_no_object_per_token():
    batch = to_batch(long_group())
    view(batch)  # imports and caches
    tracemalloc.start()
    seen = view(batch)
    made, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made < 20_000  # a copy of the smallest column of one row would be 100 000 bytes
    for name in ("tokens", "turn_id", "behaviour_logprob"):
        start = batch.column(name).values.buffers()[1].address
        for index, episode in enumerate(seen.trajectories):
            array = getattr(episode, name)
            assert array.ctypes.data == start + index * 50_000 * array.itemsize
            assert not array.flags.writeable


def test_a_spilled_group_comes_back_as_a_map_of_its_file(tmp_path):
    batch = to_batch(long_group())
    spill = SpillDirectory(tmp_path / "spill")
    spilled = spill.write(7, batch)
    before = pa.total_allocated_bytes()
    back = spilled.read()
    assert pa.total_allocated_bytes() - before < 20_000
    assert back == batch
    spill.free(spilled)
    assert list((tmp_path / "spill").iterdir()) == []
    assert view(back).trajectories[1].tokens[-1] == 49_999  # the map outlives the file


def test_a_new_spill_directory_is_empty_and_a_failed_write_leaves_nothing(tmp_path):
    spill = SpillDirectory(tmp_path)
    spill.write(1, to_batch(long_group(10)))
    SpillDirectory(tmp_path)
    assert list(tmp_path.iterdir()) == []
    tmp_path.rmdir()
    with pytest.raises(OSError, match="No such file"):
        spill.write(1, to_batch(long_group(10)))


def test_another_schema_version_and_a_turn_without_version_are_refused():
    group = long_group(10)
    with pytest.raises(SchemaVersionError):
        view(to_batch(group).replace_schema_metadata(None))
    for row in group.trajectories:
        row.version_spans = []
    with pytest.raises(ValueError, match="group g: a turn without a weight version"):
        view(to_batch(group))
