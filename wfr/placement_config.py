"""Configuration: on which machines of a cluster the roles run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section


class RolePlacement(Section):
    """What one process of a role takes, and which machines it may run on."""

    gpus: float | None = Field(None, ge=0)
    """GPUs of one process (a learner rank, or one tensor-parallel part of a sampler); below 1: it
    shares one. None: 1 on a cluster with GPUs, else 0."""
    cpus: float = Field(0, ge=0)
    """CPU cores that are counted for one process; 0: none is, and it runs anywhere."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a machine must have (`ray start --labels`), for example a kind of GPU; values as
    in Ray's label selectors: `a`, `in(a,b)`, `!a`, `!in(a,b)`."""

    @model_validator(mode="after")
    def _whole_above_one(self) -> Self:
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus={self.gpus}: above 1 only whole GPUs can be had")
        return self


class LearnerPlacement(RolePlacement):
    """Where the learner's ranks run."""

    strategy: Literal["strict_pack", "pack", "spread", "strict_spread"] = "pack"
    """All ranks on one machine, on as few as possible, on many, or each on one of its own."""


class WorkerPlacement(Section):
    """Where rollout workers run."""

    near_samplers: bool = True
    """Each on the machine of a sampler if it can, so that requests stay there."""
    cpus: float = Field(0, ge=0)
    """CPU cores that are counted for one worker; 0: none is."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a machine must have, for example one with sandboxes; then `near_samplers` counts
    for nothing."""


class PlacementConfig(Section):
    """Which machines of a cluster the roles run on; one machine needs none of it."""

    learner: LearnerPlacement = LearnerPlacement()
    sampler: RolePlacement = RolePlacement()
    worker: WorkerPlacement = WorkerPlacement()
    wait: bool = False
    """What the cluster cannot hold now is asked for and waited for (`supervision.start_s`), as
    an autoscaler wants it; else such a run is refused."""
