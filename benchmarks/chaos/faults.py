"""Doing to processes and machines what the schedule says, and ending it in time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import psutil

from benchmarks.chaos.machines import Machines
from benchmarks.chaos.network import Bridge
from benchmarks.chaos.schedule import MACHINE, Fault, pick

_BACK_S = 3.0
_RATE = "2mbit"
_STOPPED_S, _RUNNING_S = 0.3, 0.1


class Faults:
    """Carries out faults; `done` says what was done, with the time of each.

    Attributes:
        done: what was done, each with its `time.time()`.
        missed: how many faults there was nobody for.
        mapped: files of the shared memory that processes had.
    """

    def __init__(self, machines: Machines, tell: Callable[[str], None]) -> None:
        """Where machines have no bridge, one is cut off by stopping everything on it."""
        self._machines = machines
        self._tell = tell
        self._cut: set[int] = set()
        self.done: list[tuple[float, Fault]] = []
        self.missed = 0
        self.mapped: set[str] = set()

    async def carry_out(self, schedule: Sequence[Fault]) -> None:
        """Do them all at their times; whatever still lasts is ended when this is."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                await asyncio.sleep(max(0.0, started + fault.at - time.monotonic()))
                group.create_task(self._do(fault))

    async def keep_up(self) -> None:
        """Start machines that have ended once more, and see what is mapped, until cancelled."""
        while True:
            await asyncio.sleep(_BACK_S)
            self.mapped |= await asyncio.to_thread(self._machines.shared_memory)
            for index in self._machines.fallen():
                if index not in self._cut:
                    self._tell(f"machine {index} comes back")
                    self._machines.start(index)

    async def _do(self, fault: Fault) -> None:
        if fault.whom == MACHINE:
            await self._to_machine(fault)
            return
        process = pick(fault, self._machines.of_role(fault.whom))
        if process is None:
            self._note(fault, "there is none just now", missed=True)
            return
        self._note(fault, f"process {process.pid}")
        with contextlib.suppress(psutil.NoSuchProcess):
            await _to_processes(fault, [process])

    async def _to_machine(self, fault: Fault) -> None:
        up = [i for i in range(1, self._machines.count + 1) if self._machines.raylet(i)]
        index = pick(fault, [i for i in up if i not in self._cut])
        raylet = self._machines.raylet(index) if index is not None else None
        if index is None or raylet is None:
            self._note(fault, "there is none just now", missed=True)
            return
        self._note(fault, f"machine {index}")
        with contextlib.suppress(psutil.NoSuchProcess):
            if fault.what == "kill":
                raylet.kill()
            elif self._machines.bridge is None:
                everything = self._machines.processes(machine=index)
                await _to_processes(fault, everything if fault.what == "cut" else [raylet])
            else:
                await self._to_link(fault, index, self._machines.bridge)

    async def _to_link(self, fault: Fault, index: int, bridge: Bridge) -> None:
        cut = fault.what == "cut"
        self._cut.add(index)
        try:
            bridge.link(index, up=False) if cut else bridge.limit(index, _RATE)
            await asyncio.sleep(fault.seconds)
        finally:
            bridge.link(index, up=True) if cut else bridge.limit(index, None)
            self._cut.discard(index)

    def _note(self, fault: Fault, whom: str, *, missed: bool = False) -> None:
        self._tell(f"{fault}: {whom}")
        self.missed += missed
        if not missed:
            self.done.append((time.time(), fault))


async def _to_processes(fault: Fault, processes: Sequence[psutil.Process]) -> None:
    if fault.what == "kill":
        for process in processes:
            process.kill()
        return
    try:
        if fault.what == "slow":
            end = time.monotonic() + fault.seconds
            while time.monotonic() < end:
                _each(processes, psutil.Process.suspend)
                await asyncio.sleep(_STOPPED_S)
                _each(processes, psutil.Process.resume)
                await asyncio.sleep(_RUNNING_S)
        else:
            _each(processes, psutil.Process.suspend)
            await asyncio.sleep(fault.seconds)
    finally:
        _each(processes, psutil.Process.resume)


def _each(processes: Sequence[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """To all that are left of them: an id that another process has by now is none of them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)
