"""What the replicas of a service share: its workflows by id, and what each API key has used.

A plain class: `wfr serve` hosts it as an actor, tests await it as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from cluster.serving.api_keys import ApiKey
from cluster.serving.errors import ServingError
from cluster.serving.quota import Quotas

_POLL_S = 20.0
"""How long a replica's question for cancellations stays open."""
_FRESH_S = 30.0
"""Age at which metrics of a replica that says nothing more are dropped."""


class Registry:
    """One per service."""

    def __init__(
        self, keep: int, keep_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Know the last `keep` ended workflows, none longer than `keep_s`."""
        self._keep = keep
        self._keep_s = keep_s
        self._clock = clock
        self._quotas = Quotas(clock)
        self._running: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self._ended: OrderedDict[str, tuple[float, str, dict[str, Any]]] = OrderedDict()
        self._cancelled: dict[str, list[str]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._texts: dict[str, tuple[float, str]] = {}

    async def take(self, key: ApiKey) -> None:
        """Count a request of `key`; raises ServingError where it has used up its limits."""
        self._quotas.take(key)

    async def begin(self, owner: str, key: str, view: dict[str, Any]) -> None:
        """A workflow begins in replica `owner` for API key `key` (empty: anybody's)."""
        self._running[view["id"]] = owner, key, view

    async def end(self, view: dict[str, Any]) -> None:
        """It has ended like this."""
        self._end(view)

    def _end(self, view: dict[str, Any]) -> None:
        name = view["id"]
        if name not in self._running:  # given up for lost before
            return
        _, key, _ = self._running.pop(name)
        self._quotas.spend(key, view["cost_usd"])
        self._ended[name] = self._clock(), key, view
        while len(self._ended) > self._keep:
            self._ended.popitem(last=False)

    async def get(self, name: str, key: str) -> dict[str, Any]:
        """The workflow; raises ServingError (404) where `key` never began one of that id."""
        self._forget()
        for table in (self._running, self._ended):
            if name in table and table[name][1] == key:
                return table[name][2]
        raise ServingError(404, "unknown_workflow", f"there is no workflow {name[:64]!r}")

    async def cancel(self, name: str, key: str) -> dict[str, Any]:
        """Ask for the end of a workflow; one that has ended stays as it is. Raises as `get`."""
        view = await self.get(name, key)
        if name in self._running:
            owner = self._running[name][0]
            self._cancelled.setdefault(owner, []).append(name)
            self._event(owner).set()
        return view

    async def cancelled(self, owner: str) -> list[str]:
        """Wait for workflows of `owner` that are to end; nothing after a while."""
        event = self._event(owner)
        try:
            async with asyncio.timeout(_POLL_S):
                await event.wait()
        except TimeoutError:
            return []
        event.clear()
        return self._cancelled.pop(owner, [])

    async def exchange(self, owner: str, text: str) -> dict[str, str]:
        """Keep the metrics of a replica; returns those of all that are alive."""
        self._texts[owner] = self._clock(), text
        self._forget()
        return {name: kept for name, (_, kept) in self._texts.items()}

    def _event(self, owner: str) -> asyncio.Event:
        return self._news.setdefault(owner, asyncio.Event())

    def _forget(self) -> None:
        """Drop what is too old; workflows of a replica that says nothing more have failed."""
        now = self._clock()
        while self._ended and next(iter(self._ended.values()))[0] < now - self._keep_s:
            self._ended.popitem(last=False)
        silent = {name for name, (heard, _) in self._texts.items() if heard < now - _FRESH_S}
        for name in silent:
            del self._texts[name]
        for owner, _, view in list(self._running.values()):
            if owner in silent:
                self._end({**view, "status": "failed", "error": "its replica has died"})
