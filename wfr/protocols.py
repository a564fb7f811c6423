"""What crosses a boundary between roles: the interfaces on one page.

A caller cannot tell whether the other end is an object in the same event loop or an actor on
another machine: `cluster.remote` makes the second look like the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from wfr.trajectory import VersionSpan


class PeerLostError(ConnectionError):
    """The other end of a call has died; the call may or may not have had its effect."""


class PublishError(RuntimeError):
    """New weights did not reach every sampler; the transfer group has to be rebuilt."""


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingRequest:
    """Token ids [m] to continue by at most `max_tokens` further ones, or until a stop string.

    Where an engine has more requests than places, the smallest `priority` is served first.
    """

    tokens: Sequence[int]
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float = 1.0
    seed: int | None = None
    priority: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one request sampled.

    Attributes:
        tokens: int32 [n], those of the stop string included.
        logprob: float32 [n], log-probabilities under the distribution that was sampled from.
        spans: weight versions over [0, n), in order, without gaps.
        finish_reason: `stop` or `length`.
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
