"""Places, time limits, attempts and hedges around a backend that may fail.

A failed attempt is made again after an exponential pause with jitter, or when the backend said that
it may be; then the fault is the world's, and the episode is set aside. Two kinds of failure do not
count as attempts, because they are waited out by everybody at the gate: a backend that is busy and
says until when, and a probe of one that is down.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import tenacity

from wfr.backends.base import (
    Backend,
    BackendConfigError,
    BackendError,
    Completion,
    OperatorRequest,
    RejectedError,
)
from wfr.backends.counter import Counter, Place
from wfr.backends.usage import Usage
from wfr.executor_config import GuardedConfig
from wfr.trajectory import StopReason, WorldFailureError

_CHARS_PER_TOKEN = 4


class DownError(Exception):
    """The backend is down, and the caller would rather ask another one."""


class _FreeError(BackendError):
    """A failure that does not count as an attempt."""


class Guarded:
    """A backend with everything around it that a request needs."""

    def __init__(
        self,
        backend: Backend,
        config: GuardedConfig,
        counter: Counter,
        *,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
    ) -> None:
        """Pause about `first_pause_s`·2ⁿ after the n-th failure, at most `longest_pause_s`."""
        self.name = backend.name
        self._backend = backend
        self._config = config
        self._counter = counter
        self._pause = tenacity.wait_random_exponential(first_pause_s, longest_pause_s)

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """What tells its replies from others'; none: they are not to be cached."""
        return getattr(self._backend, "identity", None)

    def deterministic(self, request: OperatorRequest) -> bool:
        """True where the same request has the same reply."""
        asked = getattr(self._backend, "deterministic", None)
        return bool(asked(request)) if asked else request.temperature == 0

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request.

        Raises:
            WorldFailureError: BACKEND_FAILED, after the last attempt.
            BackendConfigError: no attempt would help.
        """
        return await self.measured(request, Usage(), patient=True)

    async def measured(
        self, request: OperatorRequest, usage: Usage, *, patient: bool = True
    ) -> Completion:
        """The same, adding requests, failures and hedges to `usage`.

        Raises:
            DownError: the backend is down, and `patient` is false.
        """
        started = time.perf_counter()
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BackendError),
            stop=self._spent,
            wait=self._wait,
            retry_error_callback=self._set_aside(request),
        )
        completion: Completion = await attempts(self._attempt, request, usage, patient=patient)
        seconds = time.perf_counter() - started
        return dataclasses.replace(completion, seconds=seconds, backend=self.name)

    async def _attempt(
        self, request: OperatorRequest, usage: Usage, *, patient: bool
    ) -> Completion:
        try:
            return await self._hedged(request, usage, patient=patient)
        except RejectedError as error:
            raise WorldFailureError(StopReason.BACKEND_FAILED, str(error)) from None

    async def _hedged(self, request: OperatorRequest, usage: Usage, *, patient: bool) -> Completion:
        first = asyncio.create_task(self._once(request, usage, patient=patient))
        tasks = {first}
        try:
            if self._config.hedge_after_s is None:
                return await first
            await asyncio.wait(tasks, timeout=self._config.hedge_after_s)
            if not first.done():
                usage.hedges += 1
                tasks.add(asyncio.create_task(self._once(request, usage, patient=patient)))
            return await _first_success(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _once(self, request: OperatorRequest, usage: Usage, *, patient: bool) -> Completion:
        place = await self._place(request, patient=patient)
        usage.requests += 1
        try:
            async with asyncio.timeout(self._config.timeout_s):
                completion = await self._backend.complete(request)
        except TimeoutError:
            self._fail(place, usage, BackendError(f"no reply within {self._config.timeout_s:g} s"))
        except BackendError as error:
            self._fail(place, usage, error)
        except (BackendConfigError, RejectedError):
            usage.failed += 1
            place.end("waived")
            raise
        except BaseException:
            place.end("waived")
            raise
        tokens = completion.prompt_tokens + completion.completion_tokens
        place.end("ok", tokens=tokens, usd=completion.cost_usd)
        return completion

    async def _place(self, request: OperatorRequest, *, patient: bool) -> Place:
        prompt, reply = len(request.prompt) / _CHARS_PER_TOKEN, request.max_tokens
        expected = prompt + reply, self._config.price.of(round(prompt), reply)
        if patient:
            return await self._counter.place(*expected)
        place = await self._counter.place_if_up(*expected)
        if place is None:
            raise DownError(self.name)
        return place

    def _fail(self, place: Place, usage: Usage, error: BackendError) -> NoReturn:
        usage.failed += 1
        hold_s = error.retry_after_s or 0.0
        place.end("busy" if error.busy else "failed", hold_s=hold_s)
        if place.probe or (error.busy and hold_s):
            raise _FreeError(str(error), error.retry_after_s, busy=error.busy) from error
        raise error

    def _spent(self, state: tenacity.RetryCallState) -> bool:
        counted = getattr(state, "wfr_counted", 0) + (not isinstance(_error(state), _FreeError))
        state.wfr_counted = counted  # type: ignore[attr-defined]
        return counted > self._config.retries

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, _FreeError):
            return 0.0  # the gate holds everybody off
        asked = error.retry_after_s if isinstance(error, BackendError) else None
        return max(self._pause(state), asked or 0.0)

    def _set_aside(self, request: OperatorRequest) -> Any:
        def set_aside(state: tenacity.RetryCallState) -> NoReturn:
            raise WorldFailureError(
                StopReason.BACKEND_FAILED,
                f"backend {self.name!r} failed {self._config.retries + 1} times on "
                f"{request.operator}; last: {_error(state)}",
            ) from None

        return set_aside


async def _first_success(tasks: set[asyncio.Task[Completion]]) -> Completion:
    """The first reply; where all fail, the last failure."""
    pending = tasks
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None or not pending:
                return task.result()


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
