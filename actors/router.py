"""The router: which sampler an episode talks to.

An episode sticks to one sampler so that its prefix stays in that sampler's cache. When the sampler
dies, the episode moves on with its token ids; when none is left, it waits for one to join.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from wfr.protocols import PeerLostError, Sample, SamplerLike, SamplingRequest
from wfr.trajectory import StopReason, WorldFailureError


class Router:
    """Spreads episodes over the live samplers, fewest episodes first."""

    def __init__(self, wait_s: float) -> None:
        """Wait at most `wait_s` seconds for a sampler to join where none is alive."""
        self._samplers: dict[str, SamplerLike] = {}
        self._wait_s = wait_s
        self._assigned: dict[str, str] = {}
        self._load: Counter[str] = Counter()
        self._joined = asyncio.Event()
        self._heard: set[str] = set()

    def update(self, samplers: Mapping[str, SamplerLike]) -> None:
        """Replace the set of live samplers; episodes of those gone move at their next turn."""
        self._samplers = dict(samplers)
        if self._samplers:
            self._joined.set()
        else:
            self._joined.clear()

    async def sample(self, episode: str, request: SamplingRequest) -> Sample:
        """Sample on the episode's sampler, moving the episode when that one dies.

        Raises:
            WorldFailureError: SAMPLER_FAILED when no sampler joined in time.
        """
        while True:
            name = await self._pick(episode)
            try:
                sample = await self._samplers[name].sample(request)
            except PeerLostError:
                self._lose(name)
            else:
                self._heard.add(name)
                return sample

    def heard(self) -> set[str]:
        """The samplers that have answered since the last call."""
        heard, self._heard = self._heard, set()
        return heard

    def release(self, episode: str) -> None:
        """Forget a finished episode."""
        name = self._assigned.pop(episode, None)
        if name is not None:
            self._load[name] -= 1

    async def _pick(self, episode: str) -> str:
        assigned = self._assigned.get(episode)
        if assigned in self._samplers:
            return str(assigned)
        self.release(episode)
        await self._wait()
        name = min(self._samplers, key=lambda other: (self._load[other], other))
        self._assigned[episode] = name
        self._load[name] += 1
        return name

    async def _wait(self) -> None:
        """Wait for a sampler; one that joined may be gone again by the time this task runs."""
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._samplers:
                    await self._joined.wait()
        except TimeoutError:
            raise WorldFailureError(
                StopReason.SAMPLER_FAILED, f"no sampler joined within {self._wait_s:g} s"
            ) from None

    def _lose(self, name: str) -> None:
        self._samplers.pop(name, None)
        if not self._samplers:
            self._joined.clear()
