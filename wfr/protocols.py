"""What crosses a boundary between roles: the interfaces on one page.

A caller cannot tell whether the other end is an object in the same event loop or an actor on
another machine: `cluster.remote` makes the second look like the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from wfr.trajectory import VersionSpan


class PeerLostError(ConnectionError):
    """The other end of a call has died; the call may or may not have had its effect."""


class DataLostError(ConnectionError):
    """What a call was given has gone with the machine that held it; the call did nothing."""


class SamplersLostError(PeerLostError):
    """Samplers failed in a weight update; `lost` says which, and why."""

    def __init__(self, lost: Mapping[str, str]) -> None:
        """`lost` maps the name of a sampler to what is wrong with it."""
        super().__init__("; ".join(f"{name} {why}" for name, why in lost.items()))
        self.lost = dict(lost)

    def __reduce__(self) -> tuple[type[SamplersLostError], tuple[dict[str, str]]]:
        return type(self), (self.lost,)


class PublishError(RuntimeError):
    """New weights are not in force in any sampler; the transfer group has to be rebuilt.

    `lost` maps the samplers to blame to what is wrong with them. Where it is empty, nobody knows
    who it was. The others hold still until they get whole weights.
    """

    def __init__(self, why: str, lost: Mapping[str, str] | None = None) -> None:
        """Blame `lost` for `why`."""
        super().__init__(why)
        self.lost = dict(lost or {})

    def __reduce__(self) -> tuple[type[PublishError], tuple[str, dict[str, str]]]:
        return type(self), (str(self), self.lost)


@dataclasses.dataclass(frozen=True, slots=True)
class Publication:
    """A version that is in force in every sampler but those in `lost` (name → why).

    `seconds` is what its phases took: hold, receive, install, commit.
    """

    version: int
    lost: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingRequest:
    """Token ids [m] to continue by at most `max_tokens` further ones, or until a stop string.

    Where an engine has more requests than places, the smallest `priority` is served first.
    `position` tells the requests of an episode apart: tokens of it before this request, those of
    contexts that have ended included.
    """

    tokens: Sequence[int]
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float = 1.0
    seed: int | None = None
    priority: int = 0
    position: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one request sampled.

    Attributes:
        tokens: int32 [n], those of the stop string included.
        logprob: float32 [n], log-probabilities under the distribution that was sampled from.
        spans: weight versions over [0, n), in order, without gaps.
        finish_reason: `stop`, `length`, or `abort` where its sampler leaves before the end: the
            rest is another one's to sample.
    """

    tokens: np.ndarray
    logprob: np.ndarray
    spans: tuple[VersionSpan, ...]
    finish_reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class TransferGroup:
    """Where trainer and samplers meet: rank 0 is the trainer, each sampler worker one more."""

    backend: str
    host: str
    port: int
    world_size: int
    bucket_bytes: int
    timeout_s: float


class SamplerLike(Protocol):
    """Something that samples; raises PeerLostError when it has died."""

    async def sample(self, request: SamplingRequest) -> Sample:
        """Continue the tokens of the request."""
        ...
