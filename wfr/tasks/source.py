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
        answers: every accepted answer; never shown to anything but the grader.
        skill: reporting bucket, for example `hop2` or `bridge`.
        metric: name of the grader, for example `qa_em` or `gsm8k`.
        corpus: passages that belong to this task alone; empty where the source has one corpus.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    source: str
    skill: str = ""
    metric: str = "qa_em"
    corpus: tuple[Document, ...] = ()
    meta: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    """An endless, seeded order over the training tasks: each epoch is a fresh permutation."""

    def __init__(self, count: int, seed: int) -> None:
        """Order `count` tasks; raises ValueError when there is none."""
        if count < 1:
            raise ValueError("there is no training task to draw from")
        self._count = count
        self._seed = seed
        self._drawn = 0

    def __next__(self) -> int:
        """Index of the next task."""
        epoch, position = divmod(self._drawn, self._count)
        self._drawn += 1
        return int(np.random.default_rng((self._seed, epoch)).permutation(self._count)[position])

    def state(self) -> dict[str, int]:
        """What `restore` needs."""
        return {"count": self._count, "seed": self._seed, "drawn": self._drawn}

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue an order; raises ValueError when it was drawn over other tasks or a seed."""
        if (state["count"], state["seed"]) != (self._count, self._seed):
            raise ValueError(f"task order {dict(state)} does not fit {self.state()}")
        self._drawn = state["drawn"]
