"""The crew: the rollout workers of a run, kept at work, and what they did."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from cluster.failures import RunFailedError
from cluster.fleet import Fleet
from cluster.run_state import RunState
from cluster.samplers import gist
from wfr.buffer import BufferClosedError
from wfr.episode_counts import EpisodeTotals
from wfr.protocols import PeerLostError


class Crew:
    """Replaces workers that are lost."""

    def __init__(self, state: RunState, fleet: Fleet, book_loss: Callable[[str], None]) -> None:
        """`book_loss` is told the name of each worker that was lost."""
        self._state = state
        self._fleet = fleet
        self._book_loss = book_loss
        self._worker_seconds: Counter[str] = Counter()
        self._episodes = EpisodeTotals()
        self._late: dict[str, list[asyncio.Future[Any]]] = {}

    def keep(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What keeps each worker at work until the buffer is closed."""
        return [self._keep_worker(index) for index in range(self._state.config.rollout.workers)]

    async def _keep_worker(self, index: int) -> None:
        """Run one worker; when it dies, free what it held and start another."""
        lost = False
        while True:
            if (
                lost
            ):  # may raise: a worker also ends when the buffer has died, which is no loss of it
                await self._state.topology.bury_worker(index)
            try:
                if lost:
                    await self._state.topology.replace_worker(index, self._fleet.joined)
                await self._state.topology.workers[index].run(self._state.topology.buffer)
            except BufferClosedError:
                return
            except PeerLostError as error:
                lost = True
                name = f"worker-{index}"
                self._state.tally.worker_restarts += 1
                losses = self._state.budget.lose("worker")
                if self._state.budget.spent("worker"):
                    raise RunFailedError(
                        f"{losses} rollout workers were lost without a step between them, the last "
                        f"one because: {gist(error)}. See {self._state.logs}."
                    ) from error
                self._state.progress.note(f"{name} died; its groups are counted as lost work")
                values = {"name": name, "workers/restarts": self._state.tally.worker_restarts}
                self._state.record("worker_lost", values)
                self._book_loss(name)

    async def time_spent(self) -> dict[str, float]:
        """Seconds that all workers together have spent, by phase; one that is lost counts later."""
        for seconds in await self._of_workers("time_spent"):
            self._worker_seconds.update(seconds)
        return dict(self._worker_seconds)

    async def episode_counts(self) -> dict[str, Any]:
        """How all episodes of training ended so far, and what operators took lately."""
        for counts, latencies in await self._of_workers("episode_counts"):
            self._episodes.add(counts, latencies)
        return dict(self._episodes.record())

    async def _of_workers(self, method: str) -> list[Any]:
        """What the workers answer in time; a late answer counts at the next call."""
        asked = [asyncio.ensure_future(getattr(w, method)()) for w in self._state.topology.workers]
        asked += self._late.pop(method, [])
        await asyncio.wait(asked, timeout=_TIME_ANSWER_S)
        self._late[method] = [answer for answer in asked if not answer.done()]
        ended = [answer for answer in asked if answer.done()]
        return [answer.result() for answer in ended if answer.exception() is None]


_TIME_ANSWER_S = 1.0  # a report waits no longer for a worker that is busy or lost
