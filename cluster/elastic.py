"""Elastic samplers: who is on a machine that will go leaves it in time; new machines get samplers.

    a machine is told to go  ──► its samplers leave: workers ask others, turns being sampled end or
                                 move with the tokens that they have, the transfer group is rebuilt
    a machine has room       ──► samplers start there, up to `sampler.max`; each joins, with the
                                 current weights, before its first request

This looks once a heartbeat and decides; `cluster.fleet` and `cluster.samplers` carry it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from cluster.fleet import Fleet
from cluster.run_state import RunState

_MARGIN = 0.25
"""Share of a machine's notice that is kept for ending processes."""


class Elastic:
    """Lets samplers leave and join while the run goes on."""

    def __init__(
        self,
        state: RunState,
        fleet: Fleet,
        node_of: Callable[[str], str],
        *,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        """`node_of` gives the node id of a sampler by name; empty while it is not known."""
        self._state = state
        self._fleet = fleet
        self._node_of = node_of
        self._sleep = sleep
        self._departures: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                await self._sleep(self._state.config.supervision.heartbeat_s)
                self._send_away(await asyncio.to_thread(self._state.topology.placing.going))
                await self._grow()
        finally:
            for departure in self._departures:
                departure.cancel()
            await asyncio.gather(*self._departures, return_exceptions=True)

    def _send_away(self, going: Mapping[str, float]) -> None:
        """Let the samplers leave that are on machines which go in so many seconds."""
        for name in self._state.pool.staying:
            node = self._node_of(name)
            if node in going:
                departure = asyncio.create_task(self._depart(name, node, going[node]))
                self._departures.add(departure)
                departure.add_done_callback(self._departures.discard)

    async def _depart(self, name: str, node: str, notice_s: float) -> None:
        limit_s = max(0.0, notice_s) * (1 - _MARGIN)
        grace_s = min(self._state.config.supervision.leave_s, limit_s / 2)
        why = f"node {node} goes"
        self._state.progress.note(f"{name} leaves ({why}); its episodes move on")
        await self._fleet.see_off(name, why, grace_s, limit_s)
        left = len(self._state.pool.left)
        self._state.record("sampler_left", {"name": name, "why": why, "samplers/left": left})

    async def _grow(self) -> None:
        """Want as many samplers as there is room for; nobody is being started meanwhile."""
        pool, most = self._state.pool, self._state.config.sampler.most
        if pool.starting or len(pool.staying) >= most:
            return
        async with self._fleet.weights:  # held while the learner moves: its places are not room
            room = await asyncio.to_thread(self._state.topology.placing.room)
        if room:
            pool.want(min(most, len(pool.staying) + room))
