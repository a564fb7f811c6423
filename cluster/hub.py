"""The hub in a process of its own: what all workers share of their executors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.failures import HubLostError
from cluster.heart import Heart
from cluster.logs import redirect
from cluster.nodes import here
from cluster.remote import Remote, host
from wfr.backends.cache import Cache, Entry
from wfr.backends.gate import Demand, Lease, Outcome
from wfr.backends.hub import Hub
from wfr.backends.usage import Usage, UsageKey
from wfr.config import Config
from wfr.executor_config import ExecutorConfig
from wfr.protocols import PeerLostError

USAGE = "executors.json"
"""What the run has used its executors for, in the run directory."""


class HostedHub(Heart, Hub):
    """The hub with the run's cache, in a process of its own."""

    def __init__(self, config: ExecutorConfig, run_dir: str) -> None:
        """Open the cache; raises BackendConfigError where it cannot be."""
        redirect(Path(run_dir) / "logs", "executors")
        super().__init__(config, open_cache(config, Path(run_dir)))
        self._saved = Path(run_dir) / USAGE
        if self._saved.exists():
            self.restore(json.loads(self._saved.read_text(encoding="utf-8")))

    def status(self) -> dict[str, Any]:
        """The hub's status, after the usage in it is on disk: a resumed run goes on counting."""
        status = super().status()
        temporary = self._saved.with_suffix(".tmp")
        temporary.write_text(json.dumps(status["usage"]), encoding="utf-8")
        temporary.rename(self._saved)
        return status


class RemoteHub:
    """The hub as a worker sees it; no executor can be asked without it: its death ends all play."""

    def __init__(self, hub: Remote) -> None:
        """`hub` hosts a `Hub`."""
        self._hub = hub

    async def lease(
        self, worker: str, backend: str, demand: Demand, *, patient: bool = True
    ) -> Lease:
        """Wait for places in front of a backend."""
        lease: Lease = await _alive(self._hub.lease(worker, backend, demand, patient=patient))
        return lease

    async def report(
        self,
        worker: str,
        outcomes: Mapping[str, Sequence[Outcome]],
        usage: Iterable[tuple[UsageKey, Usage]],
    ) -> None:
        """Give places back, and say what was used."""
        await _alive(self._hub.report(worker, outcomes, list(usage)))

    async def lookup(self, worker: str, key: str) -> Entry | None:
        """The cached entry; nothing: the caller leads."""
        entry: Entry | None = await _alive(self._hub.lookup(worker, key))
        return entry

    async def store(self, worker: str, key: str, entry: Entry) -> None:
        """Keep an entry."""
        await _alive(self._hub.store(worker, key, entry))

    async def abandon(self, worker: str, key: str) -> None:
        """The leader has no reply."""
        await _alive(self._hub.abandon(worker, key))


def open_cache(config: ExecutorConfig, run_dir: Path) -> Cache | None:
    """The cache that the configuration wants, if any backend could fill it."""
    if not config.cache.enabled or set(config.used) <= {"rule_based"}:
        return None
    return Cache(config.cache, Path(config.cache.dir or run_dir / "cache"))


def start_hub(config: Config, run_dir: Path, options: dict[str, Any]) -> Remote:
    """Start the hub on this machine, where the cache's directory is; many calls wait in it."""
    options = {**options, "max_concurrency": 100_000, **here()}
    return host(HostedHub, config.executor, str(run_dir), options=options)


async def _alive(call: Any) -> Any:
    try:
        return await asyncio.ensure_future(call)
    except PeerLostError as error:
        text = f"the process that shares out executors has died: {error}"
        raise HubLostError(text) from error
