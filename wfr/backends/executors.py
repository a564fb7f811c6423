"""All executors of one worker: which backend answers which operator, once, and who pays.

The way of a call: the episode's budget, the cache and whoever asks the same just now, the backend's
gate, the backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from wfr.backends.base import Backend, BackendConfigError, Completion, OperatorRequest
from wfr.backends.cache import Entry, cache_key, request_fields
from wfr.backends.counter import Counter, Reporter
from wfr.backends.guarded import Guarded
from wfr.backends.hub import HubLike
from wfr.backends.mistakes import Mistakes
from wfr.backends.openai_compatible import OpenAICompatible
from wfr.backends.pool import Pool
from wfr.backends.recorded import read_recording
from wfr.backends.rule_based import RuleBased
from wfr.backends.serper import Serper
from wfr.backends.spending import Account, current_account
from wfr.backends.usage import Usage, UsageKey
from wfr.executor_config import (
    CustomConfig,
    ExecutorConfig,
    GuardedConfig,
    OpenAICompatibleConfig,
    PoolConfig,
    RecordedConfig,
    RuleBasedConfig,
    SerperConfig,
)
from wfr.trajectory import StopReason, WorldFailureError

_KEPT = ("ok", "cut")


class Measured(Protocol):
    """A backend whose requests are counted."""

    name: str

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """What tells its replies from others'; none: they are not to be cached."""
        ...

    def deterministic(self, request: OperatorRequest) -> bool:
        """True where the same request has the same reply."""
        ...

    async def measured(
        self, request: OperatorRequest, usage: Usage, *, patient: bool = True
    ) -> Completion:
        """Answer one request, adding what was sent to `usage`."""
        ...


class _Plain:
    """A backend inside this process: without limits, pauses and costs."""

    identity = None

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self._backend = backend

    def deterministic(self, request: OperatorRequest) -> bool:
        return True

    async def measured(
        self, request: OperatorRequest, usage: Usage, *, patient: bool = True
    ) -> Completion:
        usage.requests += 1
        completion = await self._backend.complete(request)
        return dataclasses.replace(completion, backend=self.name)


@dataclasses.dataclass(slots=True)
class _Flight:
    """A call under way and how many wait for it."""

    task: asyncio.Task[Completion]
    passengers: int = 0


class Executors:
    """The backends of one worker, as one backend."""

    name = "executors"

    def __init__(self, config: ExecutorConfig, hub: HubLike, worker: str = "worker") -> None:
        """Build what the configuration uses; keys are read now.

        Raises:
            BackendConfigError: a key, a file or a class is not there.
        """
        self._config = config
        self._hub = hub
        self._worker = worker
        self._reporter = Reporter(hub, worker)
        self._closing: list[Any] = []
        self._flights: dict[str, _Flight] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._backends = {name: self._make(name) for name in config.used}

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer one request, charged to the episode that is running.

        Raises:
            WorldFailureError: BACKEND_FAILED; the episode is set aside.
            BackendConfigError: no episode can be played like this.
        """
        account = current_account()
        backend = self._backends[self._config.operators.get(request.operator, self._config.default)]
        spent = account.exhausted(self._config.budget.episode)
        account.calls += 1
        usage = Usage(calls=1)
        started = time.perf_counter()
        name = backend.name
        try:
            if spent:
                return _over_budget(spent)
            async with self._deadline(backend):
                completion = await self._answer(backend, self._capped(request), usage, account)
            name = completion.backend or name
        except WorldFailureError:
            usage.set_aside = 1
            raise
        finally:
            usage.seconds = time.perf_counter() - started
            self._reporter.used(UsageKey(request.operator, name, account.source), usage)
        account.add(completion)
        return completion

    async def check(self) -> dict[str, str]:
        """Which backends cannot be reached, and why."""
        faults = {}
        for backend in self._closing:
            if isinstance(backend, OpenAICompatible):
                fault = await backend.check()
                if fault:
                    faults[backend.name] = fault
        return faults

    async def close(self) -> None:
        """End what is under way, tell the hub the rest, close all connections."""
        flights = [flight.task for flight in self._flights.values()]
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, *self._leaving, return_exceptions=True)
        await self._reporter.flush()
        for part in self._closing:
            await part.close()

    async def _answer(
        self, backend: Measured, request: OperatorRequest, usage: Usage, account: Account
    ) -> Completion:
        identity = backend.identity
        if not self._config.cache.enabled or identity is None or not backend.deterministic(request):
            return await self._paid(backend, request, account)
        key = cache_key(request, identity)
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            work = self._fly(key, backend, request, account)
            flight = self._flights[key] = _Flight(asyncio.create_task(work))
        completion = await self._aboard(key, flight)
        if joined and not completion.cache_hit:
            usage.shared = 1
            completion = _free(completion)
        usage.hits = int(completion.cache_hit) - usage.shared
        usage.saved_usd = completion.saved_usd
        return completion

    async def _aboard(self, key: str, flight: _Flight) -> Completion:
        """Wait with others; the flight ends early only when nobody waits any more."""
        flight.passengers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.passengers -= 1
            if flight.passengers == 0:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    async def _fly(
        self, key: str, backend: Measured, request: OperatorRequest, account: Account
    ) -> Completion:
        entry = await self._hub.lookup(self._worker, key)
        if entry is not None:
            return _free(entry.completion)
        kept = None
        try:
            completion = await self._paid(backend, request, account)
            if completion.status in _KEPT:
                kept = Entry(request_fields(request), completion)
            return completion
        finally:
            # Told in a task of its own, because this one may be ending by cancellation.
            self._later(self._land(key, kept))

    async def _land(self, key: str, entry: Entry | None) -> None:
        if entry is None:
            await self._hub.abandon(self._worker, key)
        else:
            await self._hub.store(self._worker, key, entry)

    async def _paid(
        self, backend: Measured, request: OperatorRequest, account: Account
    ) -> Completion:
        usage, name = Usage(), backend.name
        try:
            completion = await backend.measured(request, usage)
            name = completion.backend or name
            usage.prompt_tokens = completion.prompt_tokens
            usage.completion_tokens = completion.completion_tokens
            usage.usd = completion.cost_usd
            return completion
        finally:
            self._reporter.used(UsageKey(request.operator, name, account.source), usage)

    def _capped(self, request: OperatorRequest) -> OperatorRequest:
        most = self._config.budget.call.tokens
        if most is None or request.max_tokens <= most:
            return request
        return dataclasses.replace(request, max_tokens=most)

    @contextlib.asynccontextmanager
    async def _deadline(self, backend: Measured) -> Any:
        seconds = self._config.budget.call.seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise WorldFailureError(
                StopReason.BACKEND_FAILED,
                f"backend {backend.name!r}: no reply within executor.budget.call.seconds={seconds}",
            ) from None

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _make(self, name: str) -> Measured:
        if name == "rule_based":
            return _Plain(RuleBased())
        config = self._config.backends.get(name)
        match config:
            case OpenAICompatibleConfig():
                return self._guard(OpenAICompatible(name, config), config)
            case SerperConfig():
                return self._guard(Serper(name, config), config)
            case CustomConfig():
                return self._guard(_custom(name, config), config)
            case RecordedConfig():
                return _Plain(read_recording(name, config.path))
            case PoolConfig():
                members = {self._guarded(m): weight for m, weight in config.members.items()}
                return Pool(name, members)
            case RuleBasedConfig():
                return _Plain(RuleBased(Mistakes(config.mistakes)))
            case None:
                raise BackendConfigError(f"executor.backends.{name} has not been started")

    def _guarded(self, name: str) -> Guarded:
        member = self._make(name)
        if not isinstance(member, Guarded):
            raise BackendConfigError(f"executor backend {name!r} cannot be a member of a pool")
        return member

    def _guard(self, backend: Backend, config: GuardedConfig) -> Guarded:
        counter = Counter(self._hub, self._reporter, self._worker, backend.name)
        self._closing += [counter, *([backend] if hasattr(backend, "close") else [])]
        return Guarded(backend, config, counter)


def _custom(name: str, config: CustomConfig) -> Backend:
    module, _, attribute = config.target.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)(**config.options)
    except Exception as error:
        raise BackendConfigError(
            f"executor.backends.{name}.target={config.target!r} cannot be used: {error!r}"
        ) from error
    backend.name = name  # type: ignore[misc]
    return backend


def _free(completion: Completion) -> Completion:
    """The same reply for somebody who does not pay for it."""
    paid = completion.cost_usd + completion.saved_usd
    return dataclasses.replace(completion, cost_usd=0.0, saved_usd=paid, cache_hit=True)


def _over_budget(what: str) -> Completion:
    text = f"error: this episode's budget of executor {what} is spent; answer with what you know"
    return Completion(text, status="over_budget")
