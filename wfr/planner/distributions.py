"""Distributions of what varies from turn to turn: lengths, counts, latencies."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from wfr.section import Section

_Z99 = 2.3263478740408408  # 99 % quantile of the standard normal distribution


class Constant(Section):
    """Always the same; a plain number in YAML means this."""

    kind: Literal["constant"] = "constant"
    value: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Values: float64 [size]."""
        return np.full(size, self.value)


class LogNormal(Section):
    """Many small values and a tail, given by two quantiles."""

    kind: Literal["log_normal"] = "log_normal"
    median: float = Field(gt=0)
    p99: float = Field(gt=0)
    """99 % quantile."""
    most: float = Field(math.inf, gt=0)
    """Larger values are cut to this."""

    @model_validator(mode="after")
    def _has_a_tail(self) -> Self:
        if not self.median <= min(self.p99, self.most):
            raise ValueError(
                f"median={self.median:g} is above p99={self.p99:g} or most={self.most:g}; "
                "raise these"
            )
        return self

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Values: float64 [size]."""
        sigma = math.log(self.p99 / self.median) / _Z99
        return np.minimum(rng.lognormal(math.log(self.median), sigma, size), self.most)


class Geometric(Section):
    """1, 2, 3, ...: each further one with the same chance."""

    kind: Literal["geometric"] = "geometric"
    mean: float = Field(ge=1)
    most: float = Field(math.inf, ge=1)
    """Larger values are cut to this."""

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Values: float64 [size]."""
        counts: np.ndarray = np.minimum(rng.geometric(1 / self.mean, size), self.most)
        return counts


class Empirical(Section):
    """Values that were seen, each as likely as the others."""

    kind: Literal["empirical"] = "empirical"
    values: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Values: float64 [size]."""
        chosen: np.ndarray = np.array(self.values)[rng.integers(len(self.values), size=size)]
        return chosen


class Mixture(Section):
    """One of several distributions, each with its share; for example a tail of time-outs."""

    kind: Literal["mixture"] = "mixture"
    parts: tuple[tuple[Annotated[float, Field(gt=0)], Distribution], ...] = Field(min_length=1)
    """Pairs of a share and a distribution."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        total = sum(share for share, _ in self.parts)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of a mixture add up to {total:g}; they have to make 1")
        return self

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Values: float64 [size]."""
        shares = np.array([share for share, _ in self.parts])
        which = rng.choice(len(shares), size, p=shares / shares.sum())
        values = np.empty(size)
        for index, (_, part) in enumerate(self.parts):
            chosen = np.flatnonzero(which == index)
            values[chosen] = part.draw(rng, len(chosen))
        return values


def _written_briefly(value: Any) -> Any:
    return {"kind": "constant", "value": value} if isinstance(value, int | float) else value


Distribution = Annotated[
    Annotated[Constant | LogNormal | Geometric | Empirical | Mixture, Field(discriminator="kind")],
    BeforeValidator(_written_briefly),
]
Mixture.model_rebuild()
