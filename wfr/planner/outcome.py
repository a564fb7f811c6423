"""What a simulation found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of the measured part of a simulation, which begins after the warm-up.

    Attributes:
        seconds: how long it was, in simulated time.
        steps: published optimizer steps in it.
        trajectories: that finished in it.
        policy_tokens: sampled in turns that ended in it.
        turn_lags: turns trained on, by their lag in optimizer steps.
        learner: share of the learner's time by what it does; they add up to 1, as do the next two.
        samplers: likewise, a mean over the engines.
        episodes: share of the episodes' time by what they wait for.
        operators: by operator, share of its places in use; where all calls are carried out at once,
            the mean number of them instead.
        requests: mean number of requests in one engine.
        discarded_groups: stragglers that were given up.
        usd_per_hour: machines and operators.
        slice: one part of so many equal ones was simulated; see `wfr.planner.scaling`.
        events: how much was simulated.
    """

    seconds: float
    steps: int
    trajectories: float
    policy_tokens: float
    turn_lags: Mapping[int, int]
    learner: Mapping[str, float]
    samplers: Mapping[str, float]
    episodes: Mapping[str, float]
    operators: Mapping[str, float]
    requests: float
    discarded_groups: float
    usd_per_hour: float
    slice: int = 1
    events: int = 0

    @property
    def steps_per_hour(self) -> float:
        """Optimizer steps."""
        return 3600 * self.steps / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Policy tokens sampled."""
        return self.policy_tokens / self.seconds

    @property
    def trajectories_per_s(self) -> float:
        """Episodes finished."""
        return self.trajectories / self.seconds

    @property
    def usd_per_step(self) -> float:
        """US dollars; infinite where there was no step."""
        return self.usd_per_hour / self.steps_per_hour if self.steps else float("inf")

    @property
    def mean_lag(self) -> float:
        """Mean lag of the turns trained on; 0 where there was none."""
        turns = sum(self.turn_lags.values())
        return sum(lag * n for lag, n in self.turn_lags.items()) / turns if turns else 0.0

    def record(self) -> dict[str, Any]:
        """Plain values, derived ones included."""
        derived = ("steps_per_hour", "tokens_per_s", "trajectories_per_s", "mean_lag")
        return {
            **{
                field.name: dict(value) if isinstance(value, Mapping) else value
                for field in dataclasses.fields(self)
                for value in [getattr(self, field.name)]
            },
            **{name: getattr(self, name) for name in derived},
            "usd_per_step": self.usd_per_step if self.steps else None,
        }
