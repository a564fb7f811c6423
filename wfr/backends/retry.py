"""Timeouts and bounded retries around any backend."""

from __future__ import annotations

import asyncio
import random

from wfr.backends.base import Backend, BackendError, Completion, OperatorRequest
from wfr.trajectory import StopReason, WorldFailureError


class Retrying:
    """A backend that tries again, and reports a fault of the world when that does not help."""

    def __init__(
        self, backend: Backend, *, timeout_s: float, retries: int, pause_s: float = 0.5
    ) -> None:
        """Give each attempt `timeout_s`; pause about `pause_s`·2ⁿ after the n-th failure."""
        self._backend = backend
        self._timeout_s = timeout_s
        self._retries = retries
        self._pause_s = pause_s
        self.name = backend.name

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request; raises WorldFailureError(BACKEND_FAILED) after the last attempt."""
        for attempt in range(self._retries + 1):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._backend.complete(request)
            except TimeoutError:
                cause = f"no reply within {self._timeout_s} s"
            except BackendError as error:
                cause = str(error)
            if attempt < self._retries:
                await asyncio.sleep(self._pause_s * 2**attempt * random.uniform(0.5, 1.5))
        raise WorldFailureError(
            StopReason.BACKEND_FAILED,
            f"backend {self.name!r} failed {self._retries + 1} times on {request.operator}; "
            f"last: {cause}",
        )
