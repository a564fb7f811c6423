"""Usage of the machine: memory of a process tree, idleness of each core."""

from __future__ import annotations

import asyncio
import collections
import subprocess
import sys

import psutil
import pytest

from cluster.usage import IdleMeter, MemoryMeter, tree_memory

_CHILD = "held = bytearray(60 << 20); print('ready', flush=True); input()"
_Times = collections.namedtuple("_Times", "user system idle iowait")


def test_memory_counts_children():
    alone = tree_memory()
    command = [sys.executable, "-c", _CHILD]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        child.stdout.readline()
        together, own = tree_memory(), tree_memory(child.pid)
        child.communicate("\n")
    assert own >= 60 << 20
    assert together - alone >= 50 << 20


def test_the_peak_stays(monkeypatch):
    sizes = [3, 9, 5]

    async def main():
        measured, loop = asyncio.Event(), asyncio.get_running_loop()

        def measure():
            if len(sizes) > 1:
                return sizes.pop(0)
            loop.call_soon_threadsafe(measured.set)
            return sizes[0]

        monkeypatch.setattr("cluster.usage.tree_memory", measure)
        meter = MemoryMeter(every_s=0.0)
        watching = asyncio.create_task(meter.watch())
        await measured.wait()
        watching.cancel()
        return meter.peak

    assert asyncio.run(main()) == 9


def test_idle_shares_are_of_each_core_and_of_the_time_between(monkeypatch):
    readings = [
        [_Times(5, 5, 100, 0), _Times(0, 0, 0, 0)],
        [_Times(7, 6, 106, 1), _Times(4, 0, 0, 0)],
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: readings.pop(0))
    assert IdleMeter().read() == pytest.approx([0.7, 0.0])
