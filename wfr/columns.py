"""What training reads of a group: views into its record batch, and numbers per trajectory.

Nothing here is a Python object per token or per turn. The token columns of an episode are
read-only views of the batch's buffers, wherever those are: in shared memory, in a mapped file, or
on the heap.
Messages, operator calls and answers are not read at all.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from wfr.schema import check_version
from wfr.trajectory import StopReason


@dataclasses.dataclass(slots=True)  # not frozen, which would make its thousands slow to make
class Episode:
    """One trajectory as training sees it; the rest is as in `wfr.trajectory.Trajectory`.

    Attributes:
        tokens: int32 [T], a view.
        turn_id: int16 [T], a view.
        behaviour_logprob: float32 [T], a view.
        oldest: int64 [turns], the oldest weight version inside each turn.
        newest: int64 [turns], the newest.
        context: int32 [turns], where the context of each turn begins.
        span_version: int64 [spans], the weight version of each span of policy tokens.
        span_length: int64 [spans], its count of tokens.
        policy_tokens: count of tokens that the policy wrote.
    """

    group_id: str
    sibling: int
    source: str
    stop_reason: StopReason
    reward: float
    reward_parts: Mapping[str, float]
    tokens: np.ndarray
    turn_id: np.ndarray
    behaviour_logprob: np.ndarray
    oldest: np.ndarray
    newest: np.ndarray
    context: np.ndarray
    span_version: np.ndarray
    span_length: np.ndarray
    policy_tokens: int

    @property
    def turns(self) -> range:
        """The indices of its turns."""
        return range(len(self.oldest))

    def turn_context(self) -> np.ndarray:
        """Where the context of each turn begins, in order: int32 [turns]."""
        return self.context

    def turn_oldest_version(self) -> np.ndarray:
        """Oldest weight version inside each turn, in order: int64 [turns]."""
        return self.oldest

    def token_versions(self) -> np.ndarray:
        """Weight version that sampled each token: int64 [T], −1 outside policy tokens."""
        versions = np.full(len(self.tokens), -1, np.int64)
        versions[self.turn_id >= 0] = np.repeat(self.span_version, self.span_length)
        return versions


@dataclasses.dataclass(frozen=True, slots=True)
class GroupView:
    """A group as training sees it."""

    group_id: str
    task_id: str
    trajectories: Sequence[Episode]

    @property
    def scored(self) -> list[Episode]:
        """The siblings that count: those the world did not fail."""
        return [t for t in self.trajectories if not t.stop_reason.is_world_failure]


def view(batch: pa.RecordBatch) -> GroupView:
    """Map a group for training; see `views`."""
    (group,) = views([batch])
    return group


def views(batches: Sequence[pa.RecordBatch]) -> list[GroupView]:
    """Map groups for training, one per record batch.

    What is small, such as spans and rewards, is read for all of them at once.

    Raises:
        SchemaVersionError: a batch is of another schema version.
        ValueError: a batch does not hold exactly one group, or a turn has no weight version.
    """
    if not batches:
        return []
    for batch in batches:
        check_version(batch.schema)
    small = pa.concat_batches([batch.select(_SMALL) for batch in batches])
    rows = _rows(small, batches)
    tasks = iter(small.column("task_id").to_pylist())
    return [_group(rows, tasks, batch.num_rows) for batch in batches]


def _group(rows: Iterator[Episode], tasks: Iterator[str], count: int) -> GroupView:
    """The group of the next `count` rows."""
    episodes = list(itertools.islice(rows, count))
    found = {(row.group_id, next(tasks)) for row in episodes}
    if len(found) != 1:
        raise ValueError(f"a record batch holds {len(found)} groups, expected exactly one")
    ((group_id, task_id),) = found
    return GroupView(group_id, task_id, episodes)


_PLAIN = ["group_id", "sibling", "source", "stop_reason", "reward"]
_SMALL = [*_PLAIN, "task_id", "reward_parts", "turns", "version_spans"]


def _rows(small: pa.RecordBatch, batches: Sequence[pa.RecordBatch]) -> Iterator[Episode]:
    """The trajectories of all groups; `small` has their small columns in a line."""
    plain = (small.column(name).to_pylist() for name in _PLAIN)
    names, siblings, sources, reasons, rewards = plain
    token_rows = [
        [row for batch in batches for row in _split(batch.column(name))] for name in _TOKENS
    ]
    lengths = np.fromiter(map(len, token_rows[0]), np.int64, len(names))
    turns, spans = _List(small, "turns"), _List(small, "version_spans")
    start, end, context = turns.field("start"), turns.field("end"), turns.field("context")
    oldest, newest = _versions(lengths, turns, spans, names)
    span_version, span_length = spans.field("version"), spans.field("end") - spans.field("start")
    written = np.concatenate([[0], np.cumsum(end - start, dtype=np.int64)])
    first_turn = (turns.offsets - turns.first).tolist()
    first_span = (spans.offsets - spans.first).tolist()
    policy_tokens = np.diff(written[first_turn]).tolist()
    return map(  # by position: the order of the fields
        Episode,
        names,
        siblings,
        sources,
        map(_REASONS.__getitem__, reasons),
        rewards,
        _parts(small),
        *token_rows,
        *(_cut(values, first_turn) for values in (oldest, newest, context)),
        *(_cut(values, first_span) for values in (span_version, span_length)),
        policy_tokens,
    )


_TOKENS = ("tokens", "turn_id", "behaviour_logprob")


def _cut(values: np.ndarray, edges: Sequence[int]) -> Iterator[np.ndarray]:
    """The values of each row: views."""
    return (values[start:end] for start, end in itertools.pairwise(edges))


_REASONS = {reason.value: reason for reason in StopReason}


def _split(column: pa.ListArray) -> list[np.ndarray]:
    """The values of each row: views."""
    flat = column.values.to_numpy(zero_copy_only=True)
    return list(_cut(flat, column.offsets.to_numpy(zero_copy_only=True).tolist()))


class _List:
    """A list column of records."""

    def __init__(self, batch: pa.RecordBatch, name: str) -> None:
        column = batch.column(name)
        self.offsets = column.offsets.to_numpy(zero_copy_only=True)
        self.first, self.last = int(self.offsets[0]), int(self.offsets[-1])
        self._values = column.values

    def field(self, name: str) -> np.ndarray:
        """One field of the records of all rows: a view."""
        assert self._values.offset == 0  # else `field` would have to be cut
        values: np.ndarray = self._values.field(name).to_numpy(zero_copy_only=True)
        return values[self.first : self.last]


def _versions(
    lengths: np.ndarray, turns: _List, spans: _List, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The oldest and the newest version inside each turn of all rows: int64 each.

    Spans and turns are put on one axis, the tokens of all rows in a line; there both rise, so that
    the spans that overlap a turn follow each other.
    """
    start, end = turns.field("start"), turns.field("end")
    shift = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)[:-1]])
    by_turn = np.repeat(shift, np.diff(turns.offsets))
    by_span = np.repeat(shift, np.diff(spans.offsets))
    span_start, span_end = spans.field("start") + by_span, spans.field("end") + by_span
    if (falls := np.diff(span_end) < 0).any():
        name = _name_at(int(falls.argmax()), spans, names)
        raise ValueError(f"group {name}: version spans are not in the order of their tokens")
    first = np.searchsorted(span_end, start + by_turn, side="right")
    last = np.searchsorted(span_start, end + by_turn, side="left")
    if (bare := first >= last).any():
        name = _name_at(int(bare.argmax()), turns, names)
        raise ValueError(f"group {name}: a turn without a weight version")
    if not len(first):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    versions = np.append(spans.field("version"), np.iinfo(np.int64).max)
    bounds = np.stack([first, last], axis=1).ravel()
    oldest: np.ndarray = np.minimum.reduceat(versions, bounds)[::2]
    newest: np.ndarray = np.maximum.reduceat(versions, bounds)[::2]
    return oldest, newest


def _name_at(record: int, records: _List, names: Sequence[str]) -> str:
    """The group that a record of any row is of."""
    row = np.searchsorted(records.offsets - records.first, record, side="right") - 1
    return names[int(row)]


def _parts(batch: pa.RecordBatch) -> list[dict[str, float]]:
    """The reward's parts of each row."""
    column = batch.column("reward_parts")
    keys, values = column.keys.to_pylist(), column.items.to_pylist()
    offsets = column.offsets.to_pylist()
    return [dict(zip(keys[a:b], values[a:b], strict=True)) for a, b in itertools.pairwise(offsets)]
