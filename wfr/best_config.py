"""Configuration: which version of a run is the best, and when to stop looking for a better one."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section


class BestConfig(Section):
    """The best checkpoint of a run by its evaluations, and early stop."""

    score: str | None = None
    """Score of the held-out tasks that decides: `em`, `reward`, `turns`, `skills/NAME` or
    `parts/NAME`; none: no version is preferred. Needs `train.eval_every`, and writes a checkpoint
    with every evaluation."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""
    min_change: float = Field(0.0, ge=0)
    """A score counts as better only by more than this."""
    patience: int = Field(0, ge=0)
    """Evaluations in a row without a better score end the run; 0: it takes all its steps."""

    @model_validator(mode="after")
    def _patience_needs_a_score(self) -> Self:
        if self.patience and self.score is None:
            raise ValueError(
                f"best.patience={self.patience} without best.score: name the score to wait for, "
                "for example em"
            )
        return self
