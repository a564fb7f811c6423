"""Configuration: when a process counts as dead, a run as stalled, a machine as bad."""

from __future__ import annotations

from pydantic import Field

from wfr.section import Section


class SupervisionConfig(Section):
    """What the run does about processes and machines that fail it."""

    heartbeat_s: float = Field(5.0, gt=0)
    """Seconds between two questions to a process whether it is alive."""
    silent_s: float = Field(90.0, gt=0)
    """A process that leaves one unanswered for so long is ended, and replaced as a dead one is.
    Must exceed the longest time for which code of yours blocks a rollout worker."""
    start_s: float = Field(1800.0, gt=0)
    """A sampler or a learner rank that is not up after so long counts as dead: loading the model,
    and waiting for a place on the cluster, included."""
    retries: int = Field(3, ge=0)
    """Losses without a step between them that the run survives, for each process of a role; what
    data may fail is bounded by `rollout.episode_retries` and `learner.max_refusals`."""
    episode_retries: int = Field(8, ge=0)
    """How often an episode is run again that no sampler or no sandbox could be had for; these do
    not count against `rollout.episode_retries`."""
    leave_s: float = Field(20.0, ge=0)
    """On a machine that was told to go, turns that are being sampled have so long to end by
    themselves, and half of the notice at most; then they go on elsewhere from where they are."""
    stall_s: float = Field(300.0, gt=0)
    """Without a step for so long the run says who waits for whom."""
    restart_s: float | None = Field(None, gt=0)
    """Without a step for so long all processes start anew from what is on the disk, `run.restarts`
    times; none: it waits for ever."""
    quarantine_losses: int = Field(3, ge=1)
    """So many processes lost on one machine within `quarantine_s` keep further ones away from it
    for as long."""
    quarantine_s: float = Field(1800.0, gt=0)
