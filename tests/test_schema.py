import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.schema import SCHEMA, SCHEMA_VERSION, SchemaVersionError, from_batch, to_batch
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

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
counts = st.integers(0, 2**31 - 1)
reals = st.floats(width=64)


def some(make, *fields):
    return st.lists(st.builds(make, *fields), max_size=3)


@st.composite
def trajectories(draw):
    size = draw(st.integers(0, 6))

    def array(kind, values):
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), kind)

    return Trajectory(
        run_id=draw(texts),
        task_id="task",
        group_id="group",
        sibling=draw(counts),
        tokens=array(np.int32, counts),
        turn_id=array(np.int16, st.integers(-1, 2**15 - 1)),
        behaviour_logprob=array(np.float32, st.floats(width=32)),
        version_spans=draw(some(VersionSpan, counts, counts, counts)),
        turns=draw(
            some(Turn, counts, counts, counts, st.sampled_from(TurnKind), texts, texts, counts)
        ),
        messages=draw(some(Message, texts, texts)),
        stop_reason=draw(st.sampled_from(StopReason)),
        reward=draw(reals),
        reward_parts=draw(st.dictionaries(texts, reals, max_size=3)),
        operator_calls=draw(
            some(
                OperatorCall,
                *(texts, texts, reals, counts, counts, reals, st.booleans(), texts, counts, reals),
            )
        ),
        source=draw(texts),
        answer=draw(texts),
        error=draw(texts),
        started_at=draw(reals),
        finished_at=draw(reals),
    )


groups = st.builds(
    Group,
    st.just("group"),
    st.just("task"),
    counts,
    st.lists(trajectories(), min_size=1, max_size=3),
)


def plain(group: Group) -> str:
    """The group as text in which NaN equals NaN and the dtypes of arrays count."""
    rows = [dataclasses.asdict(row) for row in group.trajectories]
    for row in rows:
        for name, value in row.items():
            if isinstance(value, np.ndarray):
                row[name] = (str(value.dtype), value.tolist())
    return repr((group.group_id, group.task_id, group.admitted_version, rows))


@given(groups)
@settings(max_examples=80, deadline=None)
def test_round_trip(group):
    batch = to_batch(group)
    batch.validate(full=True)
    assert plain(from_batch(batch)) == plain(group)


@given(groups)
@settings(max_examples=20, deadline=None)
def test_round_trip_over_the_wire_and_as_a_slice(group):
    batch = to_batch(group)
    table = pa.Table.from_batches([to_batch(dataclasses.replace(group)), batch])
    second = table.combine_chunks().to_batches()[0].slice(batch.num_rows)
    assert plain(from_batch(second)) == plain(group)
    assert plain(from_batch(pickle.loads(pickle.dumps(batch)))) == plain(group)


def trajectory(group_id="g", tokens=5):
    return Trajectory(
        *("run", "task", group_id, 0),
        tokens=np.arange(tokens, dtype=np.int32),
        turn_id=np.full(tokens, -1, np.int16),
        behaviour_logprob=np.zeros(tokens, np.float32),
        version_spans=[],
        turns=[],
        messages=[],
        stop_reason=StopReason.CANCELLED,
    )


@pytest.mark.parametrize("name", ["tokens", "turn_id", "behaviour_logprob"])
def test_token_columns_are_read_without_a_copy(name):
    batch = to_batch(Group("g", "task", 0, [trajectory(), trajectory()]))
    column = batch.column(name)
    start = column.values.buffers()[1].address
    for index, row in enumerate(from_batch(batch).trajectories):
        view = getattr(row, name)
        assert view.ctypes.data == start + index * 5 * view.itemsize
        assert not view.flags.writeable


@pytest.mark.parametrize(
    ("metadata", "found"), [(None, "none"), ({"wfr.schema_version": "7"}, "version 7;")]
)
def test_another_version_is_refused_with_both_numbers(metadata, found):
    batch = to_batch(Group("g", "task", 0, [trajectory()]))
    with pytest.raises(SchemaVersionError, match=f"{found}.*reads {SCHEMA_VERSION}"):
        from_batch(batch.replace_schema_metadata(metadata))


def test_empty_and_mixed_groups_are_refused():
    with pytest.raises(ValueError, match="no trajectories"):
        to_batch(Group("g", "task", 0, []))
    with pytest.raises(ValueError, match="of group other"):
        to_batch(Group("g", "task", 0, [trajectory(), trajectory("other")]))
    two = [to_batch(Group(g, "task", 0, [trajectory(g)])) for g in ("g", "h")]
    with pytest.raises(ValueError, match="2 groups"):
        from_batch(pa.Table.from_batches(two).combine_chunks().to_batches()[0])


def test_every_field_of_a_trajectory_has_a_column():
    fields = {field.name for field in dataclasses.fields(Trajectory)} | {"admitted_version"}
    assert set(SCHEMA.names) == fields
