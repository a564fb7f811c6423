"""The stall watchdog: when a run takes no step for long, it is said, and who holds it up."""

from __future__ import annotations

from collections.abc import Callable

from wfr.supervision_config import SupervisionConfig


class StallWatch:
    """Notices that nothing was published for `stall_s` seconds; speaks at 1, 2, 4 ... times that.

    What a run is told to wait for, such as room on the disk, is a stall too, and said: only whoever
    looks can tell whether it will end.
    """

    def __init__(self, rules: SupervisionConfig, clock: Callable[[], float]) -> None:
        """Begin to wait now."""
        self._stall_s = rules.stall_s
        self._restart_s = rules.restart_s
        self._clock = clock
        self._since = clock()
        self._next = self._stall_s
        self.count = 0

    def stepped(self) -> float:
        """A step was published; returns the seconds of the stall that this ends.

        0 where none had been spoken of.
        """
        seconds, spoken = self.seconds, self._next > self._stall_s
        self._since = self._clock()
        self._next = self._stall_s
        return seconds if spoken else 0.0

    @property
    def seconds(self) -> float:
        """Since the last step."""
        return self._clock() - self._since

    def due(self) -> bool:
        """Whether it is time to say so; then it is said."""
        seconds = self.seconds
        if seconds < self._next:
            return False
        self.count += self._next == self._stall_s
        while self._next <= seconds:
            self._next *= 2
        return True

    @property
    def hopeless(self) -> bool:
        """Whether it has lasted for so long that all processes had better start anew."""
        return self._restart_s is not None and self.seconds >= self._restart_s
