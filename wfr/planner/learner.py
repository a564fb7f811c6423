"""The learner: waits for groups, trains, waits for the publication before its own."""

from __future__ import annotations

from collections.abc import Callable

from wfr.planner.scenario import LearnerPlan


class Learner:
    """Works off one batch at a time, at a speed that may change meanwhile."""

    def __init__(self, plan: LearnerPlan, wake: Callable[[float, int], None]) -> None:
        """Wait for groups; `wake` is called with a time and a stamp when `ended` is to be."""
        self._rate = plan.tokens_per_s * plan.gpus
        self._fixed = plan.step_s
        self._wake = wake
        self._left = 0.0
        self._speed = 1.0
        self._stamp = 0
        self._seen = 0.0
        self.phase = "groups"
        self.seconds = {"train": 0.0, "groups": 0.0, "publish": 0.0}

    def train(self, tokens: float, now: float) -> None:
        """Begin a step on so many tokens."""
        self.enter("train", now)
        self._left = self._fixed + tokens / self._rate
        self._plan(now)

    def ended(self, stamp: int) -> bool:
        """Whether the step ends now; no where the plan has changed since."""
        return stamp == self._stamp

    def set_speed(self, speed: float, now: float) -> None:
        """Work at a share of the full speed from now on."""
        if speed != self._speed:
            self.settle(now)
            self._speed = speed
            if self.phase == "train":
                self._plan(now)

    def enter(self, phase: str, now: float) -> None:
        """Do something else from now on."""
        self.settle(now)
        self.phase = phase

    def settle(self, now: float) -> None:
        """Bring `seconds` up to date."""
        span, self._seen = now - self._seen, now
        self.seconds[self.phase] += span
        if self.phase == "train":
            self._left = max(0.0, self._left - span * self._speed)

    def _plan(self, now: float) -> None:
        self._stamp += 1
        self._wake(now + self._left / self._speed, self._stamp)
