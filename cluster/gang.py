"""The gang: the learner's ranks called as one, and what it means when one of them fails.

The ranks meet in collectives. So when one dies the others do not fail by themselves: they wait in
the next collective until it times out (`learner.collective_timeout_s`), or see a closed connection.
Whichever is noticed first, the whole gang is lost, because none of them can go on alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.samplers import gist
from wfr.protocols import PeerLostError, PublishError

if TYPE_CHECKING:
    from cluster.remote import Remote


class LearnerLostError(RuntimeError):
    """A rank has died, or hangs in a collective; the gang has to be started anew."""


async def together(ranks: Sequence[Remote], method: str, *args: Any) -> list[Any]:
    """Call `method` on every rank at once; returns what they return, in order of rank.

    Raises:
        LearnerLostError: the gang cannot go on.
        Exception: what the ranks raise otherwise, for example BatchRefusedError or PublishError.
    """
    calls = [asyncio.ensure_future(getattr(rank, method)(*args)) for rank in ranks]
    try:
        await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        errors = _errors(calls)
        if errors and not isinstance(errors[0], PeerLostError):
            # The rank that fails first need not be the one that died.
            await asyncio.wait(calls, timeout=_GRACE_S)
            errors = _errors(calls)
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    lost = next((error for error in errors if _means_loss(error)), None)
    if lost is not None:
        raise LearnerLostError(gist(lost)) from lost
    if errors:
        raise errors[0]
    return [call.result() for call in calls]


_GRACE_S = 2.0


def _errors(calls: Sequence[asyncio.Future[Any]]) -> list[BaseException]:
    ended = [call for call in calls if call.done() and not call.cancelled()]
    return [error for error in map(asyncio.Future.exception, ended) if error is not None]


def _means_loss(error: BaseException) -> bool:
    """A dead process, or a collective that failed: torch has no class of its own for Gloo's."""
    if isinstance(error, PublishError):
        return False
    if isinstance(error, PeerLostError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("gloo", "nccl", "connection closed by peer", "process group")
    )
