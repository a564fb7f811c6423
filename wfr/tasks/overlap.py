"""Questions that two sets of tasks share, word for word or nearly."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

from wfr.grading.qa import normalise
from wfr.tasks.source import Task

SHINGLE = 3
"""Words in a row that are compared."""


@dataclasses.dataclass(frozen=True, slots=True)
class Overlap:
    """A question of the right set and its twin in the left one; `similarity` 1: the same words."""

    left: str
    right: str
    similarity: float
    question: str


def overlaps(
    left: Iterable[Task], right: Iterable[Task], threshold: float = 0.7
) -> Iterator[Overlap]:
    """For each right task the most similar left one, where it is similar enough.

    Similarity is the Jaccard index of the sets of three words in a row, after normalisation.

    Args:
        left: usually the training tasks.
        right: usually the held-out tasks.
        threshold: least similarity, above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: expected a number above 0 and at most 1")
    index: dict[str, list[int]] = {}
    ids: list[str] = []
    sizes: list[int] = []
    for number, task in enumerate(left):
        parts = _shingles(task.question)
        ids.append(task.id)
        sizes.append(len(parts))
        for part in parts:
            index.setdefault(part, []).append(number)
    for task in right:
        parts = _shingles(task.question)
        shared = Counter(number for part in parts for number in index.get(part, ()))
        best = max(
            ((count / (sizes[n] + len(parts) - count), -n) for n, count in shared.items()),
            default=(0.0, 0),
        )
        if best[0] >= threshold:
            yield Overlap(ids[-best[1]], task.id, best[0], task.question)


def _shingles(text: str) -> frozenset[str]:
    words = normalise(text).split()
    count = max(1, len(words) - SHINGLE + 1)
    return frozenset(" ".join(words[start : start + SHINGLE]) for start in range(count))
