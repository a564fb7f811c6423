"""Recorded trajectories, and larger ones made of them.

`data/groups.arrow` holds groups of a run of the quickstart: real samples of a real engine, real
observations, real operator calls. A larger trajectory is a recorded one whose turns are repeated
until there are about sixteen, and whose tokens and messages are then stretched.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from wfr.schema import from_batch
from wfr.trajectory import Group, Message, Trajectory, Turn, VersionSpan
from wfr.upgrades import upgrade

TURNS = 16
DATA = Path(__file__).parent / "data" / "groups.arrow"


def groups(count: int, size: int, longest: int, seed: int = 0) -> list[Group]:
    """Groups of `size` siblings, of log-uniform lengths between an eighth of `longest` and it."""
    with pa.ipc.open_file(pa.OSFile(str(DATA))) as source:
        recorded = [
            row
            for index in range(source.num_record_batches)
            for row in from_batch(upgrade(source.get_batch(index))).scored
            if row.turns
        ]
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        name = str(number)
        rows = [
            _scaled(
                recorded[rng.integers(len(recorded))],
                int(longest * 8 ** -rng.random()),
                group_id=name,
                sibling=sibling,
            )
            for sibling in range(size)
        ]
        made.append(Group(name, "task", 0, rows))
    return made


def _scaled(row: Trajectory, tokens: int, *, group_id: str, sibling: int) -> Trajectory:
    first = row.turns[0].start
    period = row.turns[-1].observation_end - first
    times = max(1, TURNS // len(row.turns))
    factor = max(1, tokens // (first + times * period))

    def again(column: np.ndarray) -> np.ndarray:
        return np.concatenate([column[:first], *[column[first : first + period]] * times])

    turn_id = again(row.turn_id)
    repeat = np.repeat(np.arange(times, dtype=np.int16), period) * len(row.turns)
    turn_id[first:] += np.where(turn_id[first:] >= 0, repeat, 0).astype(np.int16)
    shifts = range(0, times * period, period)
    messages = row.messages[:1] + row.messages[1:] * times
    return dataclasses.replace(
        row,
        task_id="task",
        group_id=group_id,
        sibling=sibling,
        tokens=np.repeat(again(row.tokens), factor),
        turn_id=np.repeat(turn_id, factor),
        behaviour_logprob=np.repeat(again(row.behaviour_logprob), factor),
        turns=[_moved(turn, shift, factor) for shift in shifts for turn in row.turns],
        version_spans=[
            VersionSpan((span.start + shift) * factor, (span.end + shift) * factor, 0)
            for shift in shifts
            for span in row.version_spans
        ],
        messages=[Message(m.role, m.content * factor) for m in messages],
        operator_calls=row.operator_calls * times,
    )


def _moved(turn: Turn, shift: int, factor: int) -> Turn:
    return dataclasses.replace(
        turn,
        start=(turn.start + shift) * factor,
        end=(turn.end + shift) * factor,
        observation_end=(turn.observation_end + shift) * factor,
    )
