"""How much of the machine a run used: memory at its peak, idleness of each core."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil


class MemoryMeter:
    """Peak memory of this process and all that it started, in bytes, sampled.

    Shared pages are divided among those that share them (PSS), so that the sum is what the run
    really takes.
    """

    def __init__(self, every_s: float = 3.0) -> None:
        """Sample once in `every_s` seconds."""
        self._every_s = every_s
        self.peak = 0

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(tree_memory))
            await asyncio.sleep(self._every_s)


def tree_memory(pid: int | None = None) -> int:
    """Proportional memory of a process and its descendants, in bytes."""
    root = psutil.Process(pid)
    return sum(_proportional(process.pid) for process in [root, *root.children(recursive=True)])


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class IdleMeter:
    """Share of time that each core was idle between `start` and `read`."""

    def __init__(self) -> None:
        """Start now."""
        self._before = psutil.cpu_times(percpu=True)

    def read(self) -> list[float]:
        """Idle share of each core since the start."""
        return list(_idle(self._before, psutil.cpu_times(percpu=True)))


def _idle(before: Sequence[Any], after: Sequence[Any]) -> Iterator[float]:
    for old, new in zip(before, after, strict=True):
        spent = {name: getattr(new, name) - getattr(old, name) for name in new._fields}
        idle = spent["idle"] + spent.get("iowait", 0.0)
        yield idle / max(sum(spent.values()), 1e-9)
