"""Survivors: the samplers that outlive a run, or an attempt at one, and serve the next.

An engine takes longest to start. It has not failed when the buffer has, and it need not end with a
run when the next one would start it again. It gets the weights that the run begins with like every
sampler that joins, before its first request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.samplers import end
from wfr.config import Config
from wfr.protocols import PeerLostError

if TYPE_CHECKING:
    from cluster.placing import Placing
    from cluster.remote import Remote


class Survivors:
    """Samplers between the end of one attempt, or run, and the start of the next.

    Attributes:
        lasting: whether they outlive a run that ended well, too.
        samplers: those that are up, by name.
        placing: holds their places; none where there is nobody.
        logs: where they write, since their start.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        """Nobody yet."""
        self.lasting = lasting
        self.samplers: dict[str, Remote] = {}
        self.placing: Placing | None = None
        self.logs = ""

    async def keep(
        self, samplers: Mapping[str, Remote], placing: Placing, limit_s: float, logs: str
    ) -> None:
        """Keep those that answer within `limit_s` seconds, with their places; end the others."""
        answers = await asyncio.gather(*(_answers(each, limit_s) for each in samplers.values()))
        alive = dict(zip(samplers, answers, strict=True))
        for name, sampler in samplers.items():
            if not alive[name]:
                sampler.kill()
        self.samplers |= {name: each for name, each in samplers.items() if alive[name]}
        self.placing = placing if self.samplers else None
        self.logs = self.logs or logs

    def take(self) -> dict[str, Remote]:
        """Give them out."""
        found, self.samplers = self.samplers, {}
        return found

    def clear(self) -> None:
        """Forget everybody: Ray has ended, and all with it."""
        self.samplers, self.placing, self.logs = {}, None, ""

    async def end(self) -> None:
        """Stop their engines, and give their places back."""
        await end(list(self.take().values()))
        if self.placing is not None:
            self.placing.close()
        self.clear()


def fit(config: Config) -> Mapping[str, Any]:
    """What samplers and their places are started for: they serve a run of which this is equal.

    The vocabulary of the embedded director is that of its tasks. A deterministic run begins with an
    engine that has sampled nothing.
    """
    whole = config.model_dump(mode="json")
    found = {name: whole[name] for name in ("model", "sampler", "weights", "placement")}
    found["processes"] = (config.rollout.workers, config.learner.ranks)
    if config.model.path is None:
        found |= {name: whole[name] for name in ("tasks", "environment")}
    if config.run.deterministic:
        found["alone"] = config.run.name
    return found


async def _answers(sampler: Remote, limit_s: float) -> bool:
    with contextlib.suppress(TimeoutError, PeerLostError):
        async with asyncio.timeout(limit_s):
            await sampler.ping()
        return True
    return False
