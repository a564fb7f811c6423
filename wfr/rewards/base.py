"""What a reward is: a total and its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Reward:
    """A total and the named parts it is the sum of; `metrics` are reported but not summed."""

    total: float
    parts: Mapping[str, float]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
