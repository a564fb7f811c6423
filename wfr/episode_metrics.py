"""Metrics of the episodes that are trained on, counted when an episode ends."""

from __future__ import annotations

from wfr.episode_counts import BOUNDS
from wfr.metric import Metric, step

EPISODES: tuple[Metric, ...] = (
    step(
        "counter",
        "wfr_episodes_total",
        "episodes",
        "episodes/ended",
        "Ended episodes by stop reason; also those that were played again.",
        label="stop_reason",
    ),
    step(
        "counter",
        "wfr_episode_retries_total",
        "retries",
        "episodes/retried",
        "Episodes that were played again, by what the world did to them.",
        label="stop_reason",
    ),
    step(
        "counter",
        "wfr_turns_total",
        "turns",
        "episodes/turns",
        "Turns of ended episodes by kind: tool, answer, malformed.",
        label="kind",
    ),
    step(
        "counter",
        "wfr_operator_calls_total",
        "calls",
        "operators/statuses",
        "Operator calls of ended episodes by status; what the cache answered too.",
        label="status",
    ),
    step(
        "counter",
        "wfr_sandbox_programs_total",
        "programs",
        "operators/sandbox",
        "Programs that operators ran in the sandbox, by how they ended.",
        label="status",
    ),
    Metric(
        "wfr_operator_call_seconds",
        "histogram",
        "seconds",
        "How long operator calls took, by operator; what the cache answered is left out.",
        "step",
        "operators/seconds",
        label="operator",
        buckets=BOUNDS,
    ),
)
