"""Predictions: one per task and sample, kept as JSON lines, so that an evaluation can go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """What a policy made of one task.

    Attributes:
        policy: name or checkpoint of what played.
        sample: 0 for the greedy one or the only one, else which of several.
        correct: 0 or 1 by the task's metric; None where the world failed and nothing was scored.
        metrics: parts and metrics of the reward.
        tokens: policy tokens; 0 for policies that are programs.
        seconds: wall time of the episode.
        operators: calls by operator.
    """

    policy: str
    dataset: str
    task_id: str
    skill: str
    sample: int
    answer: str
    correct: float | None
    stop_reason: str
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    operators: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it the only one of its kind."""
        return self.policy, self.dataset, self.task_id, self.sample


class PredictionFile:
    """Appends predictions to a file and knows which are there."""

    def __init__(self, path: str | Path) -> None:
        """Read what an earlier evaluation wrote; a last line that was cut off is dropped.

        Raises:
            ValueError: another line cannot be read.
        """
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = list(self._read()) if self._path.exists() else []
        self._found = {prediction.key: prediction for prediction in kept}

    def __contains__(self, key: tuple[str, str, str, int]) -> bool:
        """Whether a prediction with this key is there."""
        return key in self._found

    def scored(self, key: tuple[str, str, str, int]) -> bool:
        """Whether there is one that needs no other attempt: the world did not fail it."""
        return key in self._found and self._found[key].correct is not None

    def __iter__(self) -> Iterator[Prediction]:
        """All predictions, in the order in which they came."""
        return iter(self._found.values())

    def add(self, prediction: Prediction) -> None:
        """Write one line; it outlives this process once this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(prediction), ensure_ascii=False) + "\n")
        self._found[prediction.key] = prediction

    def _read(self) -> Iterator[Prediction]:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._path.write_bytes(whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                yield Prediction(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self._path}: line {number}: {error}") from None
