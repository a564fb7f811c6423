"""The circuit breaker: when a backend counts as down, and how it is asked again."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from wfr.executor_config import BreakerConfig


class Circuit(StrEnum):
    """`closed`: requests flow; `open`: nobody asks; `half_open`: one request probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after so many failures in a row; a probe closes it or doubles the pause."""

    def __init__(self, config: BreakerConfig, clock: Callable[[], float]) -> None:
        """Closed. `clock` gives seconds."""
        self._config = config
        self._clock = clock
        self._failures = 0
        self._pause_s = config.pause_s
        self._until = 0.0
        self._failing_since: float | None = None
        self.circuit = Circuit.CLOSED
        self.openings = 0

    def wait_s(self) -> float:
        """Seconds until a request may be made; 0 now, infinity while a probe is out."""
        if self.circuit is Circuit.CLOSED:
            return 0.0
        if self.circuit is Circuit.HALF_OPEN:
            return float("inf")
        return max(0.0, self._until - self._clock())

    def begin(self) -> bool:
        """A request is made; true if it is the probe. Ask only when `wait_s` is 0."""
        if self.circuit is Circuit.CLOSED:
            return False
        assert self.circuit is Circuit.OPEN, self.circuit
        self.circuit = Circuit.HALF_OPEN
        return True

    def succeeded(self, *, probe: bool) -> None:
        """A request was answered; late answers to requests made before the opening do not count."""
        if self.circuit is Circuit.CLOSED or probe:
            self.circuit = Circuit.CLOSED
            self._failures = 0
            self._failing_since = None
            self._pause_s = self._config.pause_s

    def failed(self, *, probe: bool) -> None:
        """A request failed."""
        if self._failing_since is None:
            self._failing_since = self._clock()
        if probe:
            self._pause_s = min(2 * self._pause_s, self._config.longest_pause_s)
            self._open()
        elif self.circuit is Circuit.CLOSED:
            self._failures += 1
            if self._failures >= self._config.failures:
                self.openings += 1
                self._open()

    def waived(self, *, probe: bool) -> None:
        """A request ended without telling anything; after a probe the next may follow at once."""
        if probe:
            self.circuit = Circuit.OPEN
            self._until = self._clock()

    @property
    def down_s(self) -> float:
        """Seconds since the first of the failures that no success has followed."""
        return 0.0 if self._failing_since is None else self._clock() - self._failing_since

    @property
    def given_up(self) -> bool:
        """True when nothing has succeeded for longer than anybody wants to wait."""
        return self.down_s > self._config.give_up_s

    def _open(self) -> None:
        self.circuit = Circuit.OPEN
        self._until = self._clock() + self._pause_s
