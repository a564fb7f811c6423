"""What each API key has used of its limits."""

from __future__ import annotations

import time
from collections.abc import Callable

from cluster.serving.api_keys import ApiKey
from cluster.serving.errors import ServingError


class Quotas:
    """A token bucket of one minute's requests and a budget in dollars for every key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is used."""
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._usd: dict[str, float] = {}

    def take(self, key: ApiKey) -> None:
        """Count one request.

        Raises:
            ServingError: 429 where the key's rate is exceeded, 402 where its budget is spent.
        """
        spent = self._usd.get(key.name, 0.0)
        if key.usd is not None and spent >= key.usd:
            raise ServingError(
                402, "budget_spent", f"API key {key.name} has spent {spent:.4f} of {key.usd:g} USD"
            )
        rate = key.requests_per_minute
        if rate is None:
            return
        now = self._clock()
        level, before = self._buckets.get(key.name, (max(1.0, rate), now))
        level = min(max(1.0, rate), level + (now - before) * rate / 60)
        if level < 1:
            self._buckets[key.name] = level, now
            raise ServingError(
                429,
                "rate_limited",
                f"API key {key.name} may make {rate:g} requests per minute",
                (1 - level) * 60 / rate,
            )
        self._buckets[key.name] = level - 1, now

    def spend(self, name: str, usd: float) -> None:
        """Charge what a workflow of the key `name` has cost."""
        self._usd[name] = self._usd.get(name, 0.0) + usd
