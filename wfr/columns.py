"""What training reads of a group: views into its record batch, and numbers per trajectory.

Nothing here is a Python object per token or per turn. The token columns of an episode are
read-only views of the batch's buffers, wherever those are: in shared memory, in a mapped file, or
on the heap.
Messages, operator calls and answers are not read at all.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from wfr.schema import check_version, single_group
from wfr.trajectory import StopReason


@dataclasses.dataclass(frozen=True, slots=True)
class Episode:
    """One trajectory as training sees it; the rest is as in `wfr.trajectory.Trajectory`.

    Attributes:
        tokens: int32 [T], a view.
        turn_id: int16 [T], a view.
        behaviour_logprob: float32 [T], a view.
        oldest: int64 [turns], the oldest weight version inside each turn.
        newest: int64 [turns], the newest.
        context: int32 [turns], where the context of each turn begins, a view.
        span_version: int64 [spans], the weight version of each span of policy tokens, a view.
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
    """Map a group for training.

    Raises:
        SchemaVersionError: the batch is of another schema version.
        ValueError: the batch does not hold exactly one group, or a turn has no weight version.
    """
    check_version(batch.schema)
    group_id, task_id = single_group(batch)
    tokens = _List(batch, "tokens")
    turn_ids, logprobs = _List(batch, "turn_id"), _List(batch, "behaviour_logprob")
    turns, spans = _List(batch, "turns"), _List(batch, "version_spans")
    start, end, context = turns.field("start"), turns.field("end"), turns.field("context")
    oldest, newest = _versions(batch, turns, spans, group_id)
    span_version, span_length = spans.field("version"), spans.field("end") - spans.field("start")
    written = np.concatenate([[0], np.cumsum(end - start, dtype=np.int64)])
    parts = _parts(batch)
    rows = zip(
        batch.column("sibling").to_pylist(),
        batch.column("source").to_pylist(),
        batch.column("stop_reason").to_pylist(),
        batch.column("reward").to_pylist(),
        strict=True,
    )
    episodes = []
    for row, (sibling, source, reason, reward) in enumerate(rows):
        mine, its = turns.slice(row), spans.slice(row)
        episodes.append(
            Episode(
                group_id=group_id,
                sibling=sibling,
                source=source,
                stop_reason=StopReason(reason),
                reward=reward,
                reward_parts=parts[row],
                tokens=tokens.row(row),
                turn_id=turn_ids.row(row),
                behaviour_logprob=logprobs.row(row),
                oldest=oldest[mine],
                newest=newest[mine],
                context=context[mine],
                span_version=span_version[its],
                span_length=span_length[its],
                policy_tokens=int(written[mine.stop] - written[mine.start]),
            )
        )
    return GroupView(group_id, task_id, episodes)


class _List:
    """A list column as flat values and offsets."""

    def __init__(self, batch: pa.RecordBatch, name: str) -> None:
        column = batch.column(name)
        self.offsets = column.offsets.to_numpy(zero_copy_only=True)
        self.first, self.last = int(self.offsets[0]), int(self.offsets[-1])
        self._values = column.values
        self._flat = (
            None
            if pa.types.is_struct(self._values.type)
            else self._values.to_numpy(zero_copy_only=True)
        )

    def row(self, row: int) -> np.ndarray:
        """The values of one row: a view."""
        assert self._flat is not None
        values: np.ndarray = self._flat[self.offsets[row] : self.offsets[row + 1]]
        return values

    def slice(self, row: int) -> slice:
        """Where the records of one row are among those of `field`."""
        return slice(self.offsets[row] - self.first, self.offsets[row + 1] - self.first)

    def field(self, name: str) -> np.ndarray:
        """One field of the records of all rows: a view."""
        assert self._values.offset == 0  # else `field` would have to be cut
        values: np.ndarray = self._values.field(name).to_numpy(zero_copy_only=True)
        return values[self.first : self.last]


def _versions(
    batch: pa.RecordBatch, turns: _List, spans: _List, group_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """The oldest and the newest version inside each turn of all rows: int64 each.

    Spans and turns are put on one axis, the tokens of all rows in a line; there both rise, so that
    the spans that overlap a turn follow each other.
    """
    start, end = turns.field("start"), turns.field("end")
    lengths = np.diff(batch.column("tokens").offsets.to_numpy(zero_copy_only=True))
    shift = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)[:-1]])
    by_turn = np.repeat(shift, np.diff(turns.offsets))
    by_span = np.repeat(shift, np.diff(spans.offsets))
    span_start, span_end = spans.field("start") + by_span, spans.field("end") + by_span
    if (np.diff(span_end) < 0).any():
        raise ValueError(f"group {group_id}: version spans are not in the order of their tokens")
    first = np.searchsorted(span_end, start + by_turn, side="right")
    last = np.searchsorted(span_start, end + by_turn, side="left")
    if (first >= last).any():
        raise ValueError(f"group {group_id}: a turn without a weight version")
    if not len(first):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    versions = np.append(spans.field("version"), np.iinfo(np.int64).max)
    bounds = np.stack([first, last], axis=1).ravel()
    oldest: np.ndarray = np.minimum.reduceat(versions, bounds)[::2]
    newest: np.ndarray = np.maximum.reduceat(versions, bounds)[::2]
    return oldest, newest


def _parts(batch: pa.RecordBatch) -> list[dict[str, float]]:
    """The reward's parts of each row."""
    column = batch.column("reward_parts")
    keys, values = column.keys.to_pylist(), column.items.to_pylist()
    offsets = column.offsets.to_pylist()
    return [dict(zip(keys[a:b], values[a:b], strict=True)) for a, b in itertools.pairwise(offsets)]
