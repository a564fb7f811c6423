"""A rate limit as a token bucket that may go into debt."""

from __future__ import annotations

from collections.abc import Callable


class Rate:
    """So many units a minute, flowing in evenly.

    Whoever comes while a unit is left may take as many as needed, so that no single request is too
    large; the debt is waited for afterwards. What is kept is one second's worth, at least one unit:
    in any minute no more than `per_minute`, that and one request's excess are taken.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        """None: no limit. `clock` gives seconds."""
        self._per_second = per_minute / 60 if per_minute else None
        self._most = max(1.0, self._per_second or 0.0)
        self._clock = clock
        self._left = self._most
        self._at = clock()

    def wait_s(self) -> float:
        """Seconds until something is left; 0 now."""
        if self._per_second is None:
            return 0.0
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        # A whole unit, so that requests are not let in a fraction early each.
        return max(0.0, (1.0 - self._left) / self._per_second) if self._left < _ENOUGH else 0.0

    def take(self, units: float) -> None:
        """Take units; negative ones are given back."""
        if self._per_second is not None:
            self._left = min(self._most, self._left - units)


_ENOUGH = 1.0 - 1e-9
