"""A scenario: machines, what they can do, what episodes are like, and how a run uses them.

Rates are what one engine or one GPU does alone; how they were found is the user's to say: measured
with `benchmarks`, taken from a run (`wfr.planner.recorded`), or assumed.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wfr.planner.distributions import Constant, Distribution
from wfr.section import Section

Positive = Annotated[float, Field(gt=0)]


class GpuConfig(Section):
    """What the machines cost."""

    name: str = "GPU"
    count: int = Field(1, ge=1)
    """GPUs of samplers and learner together."""
    usd_per_hour: float = Field(0.0, ge=0)
    """Price of one GPU, its share of the machine included."""


class SamplerPlan(Section):
    """The engines."""

    count: int = Field(1, ge=1)
    gpus: int = Field(1, ge=1)
    """GPUs of one engine (tensor parallel)."""
    max_num_seqs: int = Field(256, ge=1)
    """Requests that one engine serves at once; others wait, oldest group first."""
    curve: dict[Annotated[int, Field(ge=1)], Positive] = Field(min_length=1)
    """Batching curve of one engine: tokens/s that it decodes, by the number of requests at once.
    Between two points the time of one token is interpolated, beyond the ends it goes on alike."""
    prefill_tokens_per_s: Positive | None = None
    """Prompt tokens that one engine reads in a second while it decodes nothing; none: reading them
    is part of the curve. A prefix that the engine has seen counts as read."""

    @model_validator(mode="after")
    def _batching_never_hurts(self) -> Self:
        points = sorted(self.curve.items())
        for (few, slow), (many, fast) in itertools.pairwise(points):
            if fast < slow:
                raise ValueError(
                    f"curve: {many} requests at once make {fast:g} tokens/s, less than the "
                    f"{slow:g} of {few}; an engine never does worse with more, so leave the point "
                    "out or lower max_num_seqs"
                )
        return self


class LearnerPlan(Section):
    """The learner's ranks together."""

    gpus: int = Field(1, ge=1)
    tokens_per_s: Positive
    """Tokens of trajectories, prompts and observations included, that one GPU trains on."""
    step_s: float = Field(0.0, ge=0)
    """Seconds of every step whatever its size: optimizer, gathering, start."""
    skips_flat: bool = False
    """Groups of equal rewards cost nothing, as with `objective.zero_variance: drop`."""


class PublishPlan(Section):
    """How new weights reach the samplers."""

    seconds: float = Field(0.0, ge=0)
    """From the end of a step until its weights are in force."""
    pause_s: float = Field(0.0, ge=0)
    """Of these, seconds for which samplers hold still, at the end."""
    overlap: bool = True
    """The next step begins while weights are sent."""

    @model_validator(mode="after")
    def _pause_is_a_part(self) -> Self:
        if self.pause_s > self.seconds:
            raise ValueError(
                f"pause_s={self.pause_s:g} is above seconds={self.seconds:g}, of which it is a part"
            )
        return self


class SharedPlan(Section):
    """Samplers and learner on the same processors: how each slows the other down."""

    sampler_speed: float = Field(1.0, gt=0, le=1)
    """Speed of samplers while the learner trains; 1: undisturbed."""
    learner_speed: float = Field(1.0, gt=0, le=1)
    """Speed of the learner while all samplers work; 1: undisturbed."""


class OperatorPlan(Section):
    """One operator, or whatever else a turn waits for."""

    share: float = Field(1.0, gt=0, le=1)
    """Share of the turns, the last of an episode excepted, that call it; what recorded
    episodes call is recorded."""
    latency_s: Distribution
    """Seconds from the start of a call to its answer."""
    places: int | None = Field(None, ge=1)
    """Calls that are carried out at once, in the order in which they came; none: all."""
    usd: float = Field(0.0, ge=0)
    """US dollars of one call."""


class EpisodesPlan(Section):
    """What episodes are like; every draw is independent of the others."""

    prompt_tokens: Distribution = Constant(value=0)
    """Tokens before the first turn."""
    turns: Distribution
    """Turns of the policy, the answer included."""
    turn_tokens: Distribution
    """Tokens of one turn."""
    observation_tokens: Distribution = Constant(value=0)
    """Tokens of the answer to a turn, which the next one reads."""
    own_s: Distribution = Constant(value=0)
    """Seconds of a worker's own work between two turns."""


class TrainingPlan(Section):
    """How the run uses it all; the names are those of a run's configuration."""

    groups_per_batch: int = Field(16, ge=1)
    group_size: int = Field(8, ge=1)
    max_lag: int = Field(4, ge=0)
    window: int = Field(4, ge=1)
    stragglers: Literal["wait", "drop"] = "wait"


class Scenario(Section):
    """Everything that a simulation needs to know."""

    name: str = "scenario"
    gpu: GpuConfig = GpuConfig()
    sampler: SamplerPlan
    learner: LearnerPlan
    publish: PublishPlan = PublishPlan()
    shared: SharedPlan = SharedPlan()
    operators: dict[str, OperatorPlan] = Field(default_factory=dict)
    episodes: EpisodesPlan | None = None
    """None: they come from a recorded run."""
    training: TrainingPlan = TrainingPlan()

    @model_validator(mode="after")
    def _gpus_suffice(self) -> Self:
        used = self.sampler.count * self.sampler.gpus + self.learner.gpus
        if used > self.gpu.count:
            raise ValueError(
                f"sampler.count={self.sampler.count} engines of sampler.gpus={self.sampler.gpus} "
                f"and learner.gpus={self.learner.gpus} take {used} GPUs, but gpu.count="
                f"{self.gpu.count}; lower one or raise gpu.count"
            )
        return self

    @model_validator(mode="after")
    def _one_operator_a_turn(self) -> Self:
        total = sum(operator.share for operator in self.operators.values())
        if self.episodes is not None and total > 1 + 1e-9:
            raise ValueError(
                f"operators: the shares add up to {total:g}; a turn calls one of them at most, so "
                "lower them to 1 in all"
            )
        return self

    @property
    def slots(self) -> int:
        """Groups that may be alive at once."""
        return (self.training.max_lag + 1) * self.training.groups_per_batch
