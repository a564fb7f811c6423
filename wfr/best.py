"""The best version so far by a named score, and whether it is time to give up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from wfr.best_config import BestConfig


class UnknownScoreError(ValueError):
    """Evaluations have no such score; the text names those that they have."""


@dataclasses.dataclass(slots=True)
class Best:
    """Follows one score over the evaluations of a run; without a score it follows nothing.

    Attributes:
        version: the best version, −1 before the first evaluation.
        score: its score.
        since: evaluations since then.
    """

    config: BestConfig
    version: int = -1
    score: float = math.nan
    since: int = 0

    def observe(self, evaluation: Mapping[str, Any]) -> bool:
        """Look at an evaluation (`version` and scores); returns whether it is the best so far.

        A score that is no number is no better than any.

        Raises:
            UnknownScoreError: it has no such score.
        """
        if self.config.score is None:
            return False
        found = dict(scores(evaluation))
        if self.config.score not in found:
            raise UnknownScoreError(
                f"best.score={self.config.score!r}: evaluations have no such score; they have "
                f"{', '.join(found)}"
            )
        score = found[self.config.score]
        if self._better(score):
            self.version, self.score, self.since = int(evaluation["version"]), score, 0
            return True
        self.since += 1
        return False

    @property
    def given_up(self) -> str:
        """Why training should end now; empty while there is hope."""
        patience = self.config.patience
        if not patience or self.since < patience:
            return ""
        return (
            f"no better {self.config.score} than {self.score:g} (version {self.version}) in "
            f"{self.since} evaluations"
        )

    def _better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if math.isnan(self.score):
            return True
        sign = 1 if self.config.mode == "max" else -1
        return sign * (score - self.score) > self.config.min_change


def scores(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every score of an evaluation by its name; skills and parts as `skills/hop1`, `parts/gate`."""
    for name in ("em", "reward", "turns"):
        yield name, _number(evaluation[name])
    for kind in ("skills", "parts"):
        for name, value in evaluation[kind].items():
            yield f"{kind}/{name}", _number(value)


def _number(value: float | None) -> float:
    """A null, which is how a record writes what is no number, is none."""
    return math.nan if value is None else float(value)
