"""Supervision of a run: silent processes are ended, bad machines closed, stalls spoken of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from cluster.failures import ProcessLostError
from cluster.heartbeats import Heartbeats
from cluster.inquiry import inquire
from cluster.quarantine import Quarantine
from cluster.run_state import RunState
from cluster.stalls import StallWatch
from cluster.waiting import Phase, chain, role_of, told, waits

if TYPE_CHECKING:
    from cluster.remote import Remote


class Supervision:
    """Heartbeats, quarantine and the stall watchdog of one run."""

    def __init__(self, state: RunState, loops: Callable[[], Mapping[str, Phase]]) -> None:
        """`loops` says what the run's own loops are doing; see `cluster.waiting.Snapshot`."""
        rules = state.config.supervision
        self._state = state
        self._loops = loops
        self._heartbeats = Heartbeats(rules, self._supervised, self._silenced, state.record)
        self._quarantine = Quarantine(rules, time.monotonic)
        self._quarantines = 0
        self.stalls = StallWatch(rules, time.monotonic)
        state.topology.placing.keep_away(self._quarantine.closed)

    def watch(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What has to run beside training."""
        self.stalls.stepped()
        return self._heartbeats.watch(), self._watch_stalls()

    def stepped(self) -> None:
        """A step was published."""
        self._state.budget.stepped()
        if stalled := self.stalls.stepped():
            self._state.progress.note(f"a step again, after {stalled:.0f} s")

    def _supervised(self) -> Mapping[str, Remote]:
        """Every process that is up, by name."""
        return {**self._state.topology.processes, **self._state.pool.live}

    def _silenced(self, name: str, why: str) -> None:
        """A process was ended because it was silent; Ray tells whoever waits for it."""
        self._state.progress.note(f"{name} {why}")
        if role_of(name) == "sampler":
            self._state.pool.lose(name, why)

    @property
    def questions(self) -> int:
        """How often any process has been asked whether it is alive."""
        return self._heartbeats.asked

    def node(self, name: str) -> str:
        """Id of the node on which a process was when it answered last; empty: it never did."""
        return self._heartbeats.nodes.get(name, "")

    def book_loss(self, name: str) -> None:
        """Remember on which machine a process was lost."""
        node = self._heartbeats.nodes.pop(name, None)
        if node is not None and self._quarantine.lose(node):
            seconds = self._state.config.supervision.quarantine_s
            self._state.progress.note(f"node {node} gets no new process for {seconds:g} s")
            self._quarantines += 1
            why = f"{name} was lost there, and others before"
            values = {"node": node, "why": why, "quarantine/count": self._quarantines}
            self._state.record("quarantine", values)

    async def _watch_stalls(self) -> None:
        """Say who holds the run up when it takes no step, for as long as it lasts.

        Raises:
            ProcessLostError: it has lasted for so long that all processes had better start anew.
        """
        while True:
            await asyncio.sleep(self._state.config.supervision.heartbeat_s)
            if self.stalls.due():
                await self._tell_stall()
            if self.stalls.hopeless:
                seconds = self._state.config.supervision.restart_s
                raise ProcessLostError(
                    f"no step for supervision.restart_s={seconds:g}: {await self._held_up()}."
                )

    async def _tell_stall(self) -> None:
        seconds, why = self.stalls.seconds, await self._held_up()
        self._state.progress.note(f"NO STEP FOR {seconds:.0f} s: {why}")
        values = {"why": why, "stall/seconds": seconds, "stall/count": self.stalls.count}
        self._state.record("stall", values)

    async def _held_up(self) -> str:
        """Who waits for whom, from the training loop to whoever holds the run up."""
        silent = self._heartbeats.silence()
        found = await inquire(self._state.topology, self._state.pool.live, self._loops(), silent)
        return told(chain(waits(found)))
