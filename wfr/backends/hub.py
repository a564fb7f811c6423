"""What all workers of a run share of their executors: gates, budget, cache, and the account.

A plain class: `cluster` hosts it as an actor, a single process uses it as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from wfr.backends.cache import Cache, Entry
from wfr.backends.gate import Demand, Gate, Lease, Outcome
from wfr.backends.spending import RunBudget
from wfr.backends.usage import Usage, UsageKey, UsageTable, read_row
from wfr.executor_config import ExecutorConfig, GuardedConfig, ServeConfig


class HubLike(Protocol):
    """What a worker needs of the hub."""

    async def lease(
        self, worker: str, backend: str, demand: Demand, *, patient: bool = True
    ) -> Lease:
        """Wait for places in front of a backend."""
        ...

    async def report(
        self,
        worker: str,
        outcomes: Mapping[str, Sequence[Outcome]],
        usage: Iterable[tuple[UsageKey, Usage]],
    ) -> None:
        """Give places back, and say what was used."""
        ...

    async def lookup(self, worker: str, key: str) -> Entry | None:
        """The cached entry; nothing: the caller leads, and has to `store` or `abandon` the key."""
        ...

    async def store(self, worker: str, key: str, entry: Entry) -> None:
        """Keep an entry and give it to whoever waits for it."""
        ...

    async def abandon(self, worker: str, key: str) -> None:
        """The leader has no reply: somebody else who waits may lead."""
        ...


class Hub:
    """One per run."""

    def __init__(
        self,
        config: ExecutorConfig,
        cache: Cache | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """A gate for every backend that may fail."""
        self._cache = cache
        self._budget = RunBudget(config.budget.run)
        guarded: dict[str, GuardedConfig | ServeConfig] = {
            name: backend
            for name, backend in config.backends.items()
            if isinstance(backend, GuardedConfig)
        }
        if config.serve:
            guarded["serve"] = config.serve
        self._gates = {
            name: Gate(
                name, backend.limits, backend.breaker, self._budget, clock=clock, sleep=sleep
            )
            for name, backend in guarded.items()
        }
        self._usage = UsageTable()
        self._leaders: dict[str, tuple[str, asyncio.Future[Entry | None]]] = {}

    async def lease(
        self, worker: str, backend: str, demand: Demand, *, patient: bool = True
    ) -> Lease:
        """Wait for at least one place; raises BackendConfigError when the backend is given up."""
        return await self._gates[backend].lease(worker, demand, patient=patient)

    async def report(
        self,
        worker: str,
        outcomes: Mapping[str, Sequence[Outcome]],
        usage: Iterable[tuple[UsageKey, Usage]],
    ) -> None:
        """Give places back, and say what was used."""
        for key, used in usage:
            self._usage.add(key, used)
            self._budget.spent.seconds += used.seconds
        for backend, ended in outcomes.items():
            self._gates[backend].give_back(worker, ended)

    async def lookup(self, worker: str, key: str) -> Entry | None:
        """The cached entry, waiting for it where somebody is about to have it."""
        while True:
            entry = self._cache.get(key) if self._cache else None
            if entry is not None:
                return entry
            if key not in self._leaders:
                self._leaders[key] = (worker, asyncio.get_running_loop().create_future())
                return None
            entry = await asyncio.shield(self._leaders[key][1])
            if entry is not None:
                return entry

    async def store(self, worker: str, key: str, entry: Entry) -> None:
        """Keep an entry and give it to whoever waits for it."""
        if self._cache:
            self._cache.put(key, entry)
        self._resolve(worker, key, entry)

    async def abandon(self, worker: str, key: str) -> None:
        """The leader has no reply: the next one who waits leads."""
        self._resolve(worker, key, None)

    def forget(self, worker: str) -> None:
        """A worker has died: free what it held."""
        for gate in self._gates.values():
            gate.forget(worker)
        for key in [key for key, (leader, _) in self._leaders.items() if leader == worker]:
            self._resolve(worker, key, None)

    def status(self) -> dict[str, Any]:
        """Plain values for records and people.

        `usage`: rows of `UsageTable`; `backends`: circuit, openings, places taken and calls waiting
        by name; `paused`: the bound of the run's budget that was reached, or the empty string.
        """
        cache = {"errors": self._cache.errors, "bytes": self._cache.bytes()} if self._cache else {}
        return {
            "usage": self._usage.rows(),
            "backends": {name: _state(gate) for name, gate in self._gates.items()},
            "paused": self._budget.refused,
            "cache": cache,
        }

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Go on counting from the `usage` of an earlier status."""
        for row in rows:
            key, usage = read_row(row)
            self._usage.add(key, usage)
            self._budget.spent.add(usage)

    def close(self) -> None:
        """Close the cache."""
        if self._cache:
            self._cache.close()

    def _resolve(self, worker: str, key: str, entry: Entry | None) -> None:
        leader = self._leaders.get(key)
        if leader is not None and leader[0] == worker:
            del self._leaders[key]
            leader[1].set_result(entry)


def _state(gate: Gate) -> dict[str, Any]:
    return {
        "circuit": gate.breaker.circuit.value,
        "openings": gate.breaker.openings,
        "down_s": round(gate.breaker.down_s, 1),
        "in_flight": gate.in_flight,
        "waiting": gate.waiting,
    }
