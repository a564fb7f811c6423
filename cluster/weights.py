"""The samplers' processes as a client in two phases: calls through Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.remote import Remote
from cluster.two_phases import Outcomes, SamplersClient, UnfinishedError
from wfr.protocols import PeerLostError


class RemoteSamplers(SamplersClient):
    """Samplers hosted by Ray; used inside the learner's process."""

    def __init__(self, samplers: Mapping[str, Remote], workers_each: int, timeout_s: float) -> None:
        """Drive `samplers`; one that does not answer within `timeout_s` seconds counts as dead."""
        super().__init__(list(samplers), workers_each)
        self._samplers = dict(samplers)
        self._timeout_s = timeout_s

    def call(self, method: str, arguments: Mapping[str, tuple[Any, ...]]) -> Outcomes:
        """Call `method` of every sampler at once and wait for all answers."""
        calls = {
            getattr(self._samplers[name].handle, method).remote(*args): name
            for name, args in arguments.items()
        }
        outcomes: dict[str, BaseException | None] = {}
        waiting, until = list(calls), time.monotonic() + self._timeout_s
        while waiting and (left := until - time.monotonic()) > 0:
            done, waiting = ray.wait(waiting, timeout=left)
            outcomes |= {calls[answer]: _error(answer) for answer in done}
            if any(outcomes[calls[answer]] for answer in done):
                # The others may wait in vain now; who died may be the last to be heard of.
                until = min(until, time.monotonic() + _GRACE_S)
        silent = _silence(outcomes, self._timeout_s)
        return outcomes | {calls[answer]: silent for answer in waiting}


_GRACE_S = 5.0


def _silence(outcomes: Outcomes, timeout_s: float) -> BaseException:
    if any(outcomes.values()):
        return UnfinishedError("was not waited for after another had failed")
    return PeerLostError(f"no answer within {timeout_s:g} s")


def _error(answer: Any) -> BaseException | None:
    try:
        ray.get(answer)
    except RayActorError as error:
        return PeerLostError(str(error))
    except RayTaskError as error:
        return error.cause or error
    return None
