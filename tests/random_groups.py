"""Groups of random trajectories for tests of the learner."""

from __future__ import annotations

import numpy as np

from wfr.schema import to_batch
from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan

VOCABULARY = 300


def trajectory(group, sibling, rng, version=0):
    """A prompt, a turn, an observation and a second turn, of random lengths."""
    lengths = rng.integers(3, 20, 4)
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    total = edges[-1]
    turn_id = np.full(total, -1, np.int16)
    turn_id[edges[1] : edges[2]] = 0
    turn_id[edges[3] : edges[4]] = 1
    policy = turn_id >= 0
    return Trajectory(
        run_id="run",
        task_id=f"task-{group}",
        group_id=str(group),
        sibling=sibling,
        tokens=rng.integers(0, VOCABULARY, total).astype(np.int32),
        turn_id=turn_id,
        behaviour_logprob=np.where(policy, -5.0 - rng.random(total), 0.0).astype(np.float32),
        version_spans=[VersionSpan(edges[i], edges[i + 1], version) for i in (1, 3)],
        turns=[
            Turn(edges[1], edges[2], edges[3], TurnKind.TOOL, "stop", "Search"),
            Turn(edges[3], edges[4], edges[4], TurnKind.ANSWER, "stop"),
        ],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=float(rng.integers(0, 2)) + 0.1 * sibling,
    )


def batches(seed, version=0):
    """Four groups of four, as record batches."""
    rng = np.random.default_rng(seed)
    return [
        to_batch(Group(str(g), f"task-{g}", version, [trajectory(g, s, rng) for s in range(4)]))
        for g in range(4)
    ]
