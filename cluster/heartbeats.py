"""Heartbeats: asking every process of a run whether it is alive, and ending those that are silent.

`cluster.supervisor` decides, this carries out. What becomes of a process that was ended here is
decided where it is decided for one that died by itself: whoever waits for it sees PeerLostError.

Workers say which samplers have answered them; those are not asked. So the questions of a run with
hundreds of samplers are few.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cluster.pulse import Pulse
from cluster.supervisor import Supervisor
from cluster.waiting import role_of
from wfr.protocols import PeerLostError
from wfr.supervision_config import SupervisionConfig


class Process(Protocol):
    """What is asked of a process; `cluster.remote.Remote` has both."""

    async def beat(self) -> Pulse:
        """Answer, with the id of the machine and with whom it has heard."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Heartbeats:
    """Asks everybody; one object per run.

    Attributes:
        nodes: on which machine each process was when it answered last.
        asked: how many questions there were.
    """

    def __init__(
        self,
        rules: SupervisionConfig,
        processes: Callable[[], Mapping[str, Any]],
        end: Callable[[str, str], None],
        record: Callable[[str, Mapping[str, Any]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        """Ask the `processes` there are at any time, by name.

        `end` is told name and reason of each process that was ended, so that whoever keeps it takes
        it out.
        """
        self._rules = rules
        self._processes = processes
        self._end = end
        self._record = record
        self._sleep = sleep
        self._supervisor = Supervisor(rules, clock)
        self._known: dict[str, Any] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._ended: Counter[str] = Counter()
        self.nodes: dict[str, str] = {}
        self.asked = 0

    async def watch(self) -> None:
        """Supervise until cancelled."""
        try:
            while True:
                await self._sleep(self._rules.heartbeat_s)
                self._supervisor.look()
                self._meet()
                for name in self._supervisor.ask():
                    self.asked += 1
                    question = asyncio.create_task(self._question(name, self._known[name]))
                    self._questions.add(question)
                    question.add_done_callback(self._questions.discard)
                for name in self._supervisor.condemn():
                    await self._execute(name, self._known[name])
        finally:
            for question in self._questions:
                question.cancel()
            await asyncio.gather(*self._questions, return_exceptions=True)

    def silence(self) -> dict[str, float]:
        """Seconds for which each process has left a question open; those that answer are absent."""
        silent = {name: self._supervisor.silence(name) for name in self._known}
        return {name: seconds for name, seconds in silent.items() if seconds > 0}

    def _meet(self) -> None:
        """Supervise the processes that there are now; another one under an old name is new."""
        now = self._processes()
        same = [name for name, process in now.items() if self._known.get(name) is process]
        self._supervisor.keep(same)
        self._supervisor.keep(now)
        self._known = dict(now)

    async def _question(self, name: str, process: Process) -> None:
        with contextlib.suppress(PeerLostError):  # dead, which whoever waits for it will see
            self.nodes[name], heard = await process.beat()
            for other in self.nodes.keys() & set(heard):  # of others the machine is to be learnt
                self._supervisor.heard(other)
        if self._known.get(name) is process:
            self._supervisor.answered(name)

    async def _execute(self, name: str, process: Any) -> None:
        """End a silent process, and before it what it has started, if it still can."""
        why = f"has not answered for {self._supervisor.silence(name):.0f} s and was ended"
        role = role_of(name)
        self._ended[role] += 1
        values = {"name": name, "why": why, "silent": dict(self._ended)}
        self._record("silent", values)
        with contextlib.suppress(PeerLostError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await process.end_children()
        process.kill()
        self._end(name, why)


_LAST_WORD_S = 2.0
