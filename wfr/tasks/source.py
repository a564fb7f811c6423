"""Tasks, the documents they come with, and the order in which they are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One passage that Search can find."""

    title: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One question with its accepted answers.

    Attributes:
        id: unique within its source.
        answers: every accepted answer; never shown to anything but the grader. Empty where tests
            grade, or where the right answer is that there is none.
        skill: reporting bucket, for example `hop2` or `bridge`.
        metric: name of the grader, for example `qa_em` or `gsm8k`.
        corpus: passages that belong to this task alone; empty where the source has one corpus.
        tests: what grades a program, in the order in which it runs; as secret as `answers`.
        public_tests: what operators may run and show.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    source: str
    skill: str = ""
    metric: str = "qa_em"
    corpus: tuple[Document, ...] = ()
    meta: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tests: tuple[str, ...] = ()
    public_tests: tuple[str, ...] = ()


class TaskSource(Protocol):
    """Where tasks come from: a training split, a held-out split and a shared corpus."""

    name: str

    def train(self) -> Sequence[Task]:
        """Tasks to learn from."""
        ...

    def held_out(self) -> Sequence[Task]:
        """Tasks to decide by; disjoint from `train()`."""
        ...

    def corpus(self) -> Sequence[Document]:
        """Passages shared by all tasks; empty where each task brings its own."""
        ...


class TaskOrder:
    """An endless, seeded order over the training tasks: each epoch is a fresh permutation.

    It is a pure function of the position, so any number of workers agree on it without talking.
    """

    def __init__(self, count: int, seed: int) -> None:
        """Order `count` tasks; of none, which is enough to evaluate, none can be drawn."""
        self._count = count
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        """Index of the task at `position` (0, 1, 2, ...); raises ValueError if there is none."""
        if self._count < 1:
            raise ValueError("there is no training task to draw from")
        epoch, offset = divmod(position, self._count)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng((self._seed, epoch)).permutation(self._count)
            self._epoch = epoch
        return int(self._permutation[offset])
