"""Configuration: what the director is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section


class WorldConfig(Section):
    """Size of the embedded look-up world."""

    people: int = Field(160, ge=8)
    namesakes: int = Field(60, ge=0)
    cities: int = Field(40, ge=4)
    firms: int = Field(40, ge=4)
    questions: int = Field(240, ge=10)
    """Questions drawn per skill, held-out ones included."""
    seed: int = 7
    """Seed of the world that reinforcement learning sees; the warm start never draws it."""


TaskFormat = Literal[
    "lookup_world",
    "mixed_world",
    "2wikimultihopqa",
    "aime",
    "apps",
    "bamboogle",
    "custom",
    "ds1000",
    "flowsteer",
    "gsm8k",
    "hotpotqa",
    "humaneval",
    "math",
    "mathqa",
    "mbpp",
    "musique",
    "nq_open",
    "popqa",
    "search_r1",
    "squad_v2",
    "triviaqa",
]


class TasksConfig(Section):
    """What the director is asked."""

    format: TaskFormat = "lookup_world"
    """`lookup_world`: questions over a corpus to search; `mixed_world`: questions with passages,
    word problems and small programs; or the format of a benchmark's file, `custom` for a table of
    your own. `wfr data check FILE` says what a file looks like."""
    path: str | None = None
    """File or directory of the benchmark, or `hub:NAME[:CONFIG[:SPLIT]]`; the embedded worlds have
    none."""
    columns: Mapping[str, str] = {}
    """For `format: custom`: the column of `question`, of `answers` or `tests`, and perhaps of `id`,
    `skill` and `context`."""
    metric: str = "qa_em"
    """For `format: custom`: how answers are graded."""
    held_out: float = Field(0.2, gt=0, le=1)
    """Share of the questions that is held out (by a hash of the question); 1 to evaluate only."""
    eval_tasks: int = Field(240, ge=1)
    """At most this many held-out questions are evaluated, drawn evenly over the skills."""
    world: WorldConfig = WorldConfig()

    @model_validator(mode="after")
    def _path_fits_format(self) -> Self:
        embedded = self.format in ("lookup_world", "mixed_world")
        if embedded and self.path is not None:
            raise ValueError(
                f"tasks.path={self.path!r} contradicts tasks.format={self.format!r}, which makes "
                "its own questions; remove the path or name the file's format"
            )
        if not embedded and self.path is None:
            raise ValueError(f"tasks.format={self.format!r} needs tasks.path, the benchmark's file")
        if bool(self.columns) != (self.format == "custom"):
            raise ValueError(
                f"tasks.columns={dict(self.columns)} and tasks.format={self.format!r} contradict "
                "each other: a table of your own (format: custom) has columns, and nothing else has"
            )
        return self
