"""Survivors: the samplers that a run which starts anew takes over from itself.

An engine takes longest to start, and has not failed when the buffer has. It gets the weights of the
version that the run goes on from like every sampler that joins, before its first request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wfr.protocols import PeerLostError

if TYPE_CHECKING:
    from cluster.placing import Placing
    from cluster.remote import Remote


class Survivors:
    """Samplers between the end of one attempt at a run and the start of the next.

    Attributes:
        samplers: those that were up, by name.
        placing: holds their places; none where there is nobody.
    """

    def __init__(self) -> None:
        """Nobody yet."""
        self.samplers: dict[str, Remote] = {}
        self.placing: Placing | None = None

    async def keep(self, samplers: Mapping[str, Remote], placing: Placing, limit_s: float) -> None:
        """Keep those that answer within `limit_s` seconds, with their places; end the others."""
        answers = await asyncio.gather(*(_answers(each, limit_s) for each in samplers.values()))
        alive = dict(zip(samplers, answers, strict=True))
        for name, sampler in samplers.items():
            if not alive[name]:
                sampler.kill()
        self.samplers = {name: each for name, each in samplers.items() if alive[name]}
        self.placing = placing if self.samplers else None

    def take(self) -> dict[str, Remote]:
        """Give them out."""
        found, self.samplers = self.samplers, {}
        return found


async def _answers(sampler: Remote, limit_s: float) -> bool:
    with contextlib.suppress(TimeoutError, PeerLostError):
        async with asyncio.timeout(limit_s):
            await sampler.ping()
        return True
    return False
