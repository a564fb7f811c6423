"""The score of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from actors.worker import EpisodeResult


def score(episodes: Iterable[EpisodeResult]) -> dict[str, Any]:
    """Means over all and per skill; world failures are left out and counted.

    `em` is the mean of what the task's own metric says; `parts` has every reward part and metric.
    """
    played = list(episodes)
    graded = [e for e in played if "correct" in e.reward_parts]
    skills: dict[str, list[float]] = {}
    for episode in graded:
        skills.setdefault(episode.skill or "all", []).append(episode.reward_parts["correct"])
    parts: dict[str, list[float]] = {}
    for episode in graded:
        for part, value in episode.reward_parts.items():
            parts.setdefault(part, []).append(value)
    correct = [e.reward_parts["correct"] for e in graded]
    return {
        "em": _mean(correct),
        "skills": {skill: _mean(values) for skill, values in sorted(skills.items())},
        "reward": _mean([e.reward for e in graded]),
        "parts": {part: _mean(values) for part, values in sorted(parts.items())},
        "turns": _mean([float(e.turns) for e in graded]),
        "tasks": len(graded),
        "not_scored": len(played) - len(graded),
        "stop_reasons": dict(Counter(e.stop_reason for e in played)),
    }


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4) if values else float("nan")
