"""What an episode keeps between two executions: results by content hash, and what was spent."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from wfr.operators.meter import Spent
from wfr.operators.values import Value


class Memory:
    """Results of nodes, least recently used ones dropped first, and the episode's spending."""

    def __init__(self, kept: int = 4096) -> None:
        """Keep at most `kept` results."""
        self._limit = kept
        self._values: OrderedDict[str, Value] = OrderedDict()
        self.spent = Spent()

    def get(self, key: str) -> Value | None:
        """The result kept under a hash."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, key: str, value: Value) -> None:
        """Keep a result."""
        self._values[key] = value
        if len(self._values) > self._limit:
            self._values.popitem(last=False)

    def count(self, spent: Spent) -> None:
        """Add what one execution spent."""
        self.spent.calls += spent.calls
        self.spent.tokens += spent.tokens
        self.spent.seconds += spent.seconds
        self.spent.cost_usd += spent.cost_usd

    def state(self) -> dict[str, Any]:
        """Plain data for `restore`."""
        return {
            "values": [[key, value.to_json()] for key, value in self._values.items()],
            "spent": dataclasses.asdict(self.spent),
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Continue from what `state` described."""
        self._values = OrderedDict((key, Value.from_json(v)) for key, v in data["values"])
        self.spent = Spent(**data["spent"])
