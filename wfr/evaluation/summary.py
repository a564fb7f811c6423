"""Scores of a policy on a dataset, from its predictions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from wfr.evaluation.intervals import Comparison, Interval, compare, mean_interval
from wfr.evaluation.prediction import Prediction
from wfr.grading.programs import pass_at_k
from wfr.grading.qa import normalise


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """One policy on one dataset.

    Attributes:
        score: mean over tasks of the mean over their samples.
        pass_at: unbiased pass@k for each k that all tasks have samples for, k > 1.
        majority: score of the most frequent answer of each task; None for single samples.
        format_faults: share of episodes with a fault in the form of some turn.
        not_scored: episodes that the world failed.
        operators: mean calls per episode.
    """

    policy: str
    dataset: str
    score: Interval
    pass_at: Mapping[int, float]
    majority: Interval | None
    turns: float
    tokens: float
    seconds: float
    cost_usd: float
    format_faults: float
    not_scored: int
    stop_reasons: Mapping[str, int]
    operators: Mapping[str, float]
    skills: Mapping[str, float]


def summarise(predictions: Iterable[Prediction]) -> list[Summary]:
    """A summary for each policy and dataset, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault((prediction.policy, prediction.dataset), []).append(prediction)
    return [_summary(items) for items in groups.values() if any(map(_scored, items))]


def compare_runs(
    first: Iterable[Prediction], second: Iterable[Prediction]
) -> Mapping[str, Comparison]:
    """For each dataset that both have, the paired comparison over their common tasks.

    Raises:
        ValueError: no dataset has a task in common.
    """
    left, right = _task_scores(first), _task_scores(second)
    found = {}
    for dataset in left.keys() & right.keys():
        common = sorted(left[dataset].keys() & right[dataset].keys())
        if common:
            found[dataset] = compare(
                [left[dataset][task] for task in common], [right[dataset][task] for task in common]
            )
    if not found:
        raise ValueError("the two evaluations have no task in common")
    return dict(sorted(found.items()))


def majority_answer(answers: Sequence[str]) -> int:
    """Index of the first of the most frequent answers, after normalisation."""
    normal = [normalise(answer) for answer in answers]
    counts = Counter(normal)
    return max(range(len(normal)), key=lambda index: (counts[normal[index]], -index))


def _scored(prediction: Prediction) -> bool:
    return prediction.correct is not None


def _summary(items: Sequence[Prediction]) -> Summary:
    played = [p for p in items if p.correct is not None]
    tasks: dict[str, list[Prediction]] = {}
    skills: dict[str, list[float]] = {}
    for prediction in played:
        tasks.setdefault(prediction.task_id, []).append(prediction)
        skills.setdefault(prediction.skill or "all", []).append(prediction.correct or 0.0)
    calls: Counter[str] = Counter()
    for prediction in played:
        calls.update(prediction.operators)
    count = len(played)
    return Summary(
        policy=items[0].policy,
        dataset=items[0].dataset,
        score=mean_interval([_mean(p.correct or 0.0 for p in group) for group in tasks.values()]),
        pass_at=_pass_at(list(tasks.values())),
        majority=_majority(list(tasks.values())),
        turns=_mean(p.turns for p in played),
        tokens=_mean(p.tokens for p in played),
        seconds=_mean(p.seconds for p in played),
        cost_usd=sum(p.cost_usd for p in played),
        format_faults=_mean(float(p.metrics.get("format_faults", 0) > 0) for p in played),
        not_scored=len(items) - count,
        stop_reasons=dict(Counter(p.stop_reason for p in items).most_common()),
        operators={name: total / count for name, total in calls.most_common()},
        skills={skill: _mean(values) for skill, values in sorted(skills.items())},
    )


def _pass_at(tasks: Sequence[Sequence[Prediction]]) -> dict[int, float]:
    most = min(len(group) for group in tasks)
    ks = [k for k in (2, 4, 8, 16, 32, 64) if k <= most]
    return {
        k: _mean(pass_at_k(len(g), sum(p.correct == 1.0 for p in g), k) for g in tasks) for k in ks
    }


def _majority(tasks: Sequence[Sequence[Prediction]]) -> Interval | None:
    if min(len(group) for group in tasks) < 2:
        return None
    chosen = [group[majority_answer([p.answer for p in group])] for group in tasks]
    return mean_interval([prediction.correct or 0.0 for prediction in chosen])


def _task_scores(predictions: Iterable[Prediction]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, list[float]]] = {}
    for prediction in predictions:
        if prediction.correct is not None:
            tasks = scores.setdefault(prediction.dataset, {})
            tasks.setdefault(prediction.task_id, []).append(prediction.correct)
    return {d: {task: _mean(v) for task, v in tasks.items()} for d, tasks in scores.items()}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
