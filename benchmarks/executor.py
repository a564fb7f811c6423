"""2,000 concurrent executor calls against a local server that answers in 200 ms and a tail.

Two limits in turn: a rate, and places. What a limit allows is known: so many calls a minute, or
places divided by the time that the server itself took per reply. Throughput is that of the middle
eight tenths of the calls: before them places fill, and after them the last replies of the tail are
waited for, which no client can shorten. The client's overhead is processor
time per call of this process, which does nothing else, with everything on the way of a call:
budget, cache, gate, attempts, the `openai` client. The peer is that client alone, as its manual
shows it, on the same server. The server is a process of its own on the same machine.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil

from benchmarks.harness import Result, at_least, at_most, figure, interleave, ratio
from wfr.backends.base import OperatorRequest
from wfr.backends.cache import Cache
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub
from wfr.config import parse_config

_CALLERS = 2000
_PLACES = 64
_PER_SECOND = 200
_PEER_CALLERS = 64
_PROMPT = "Who wrote the book that the film is based on? " * 4


def run(quick: bool) -> Result:
    """Measure against a fresh server."""
    calls, repeats = (300, 1) if quick else (4000, 3)
    with _server() as address, tempfile.TemporaryDirectory() as directory:
        bench = _Bench(address, calls, Path(directory))
        samples = interleave(
            {
                "rate": lambda: bench.ours(
                    requests_per_minute=60 * _PER_SECOND, concurrency=_CALLERS
                ),
                "places": lambda: bench.ours(concurrency=_PLACES),
                "client": bench.client_alone,
            },
            repeats=repeats,
            warmup=0 if quick else 1,
        )
        growth = [(bench.memory[-1] - bench.memory[0]) / 2**20]
    skip = -repeats
    overhead = {name: values[skip:] for name, values in bench.overhead_ms.items()}
    return Result(
        [
            figure("throughput ÷ what a rate allows", samples["rate"], "×", at_least(0.95)),
            figure("throughput ÷ what places allow", samples["places"], "×", at_least(0.95)),
            figure("processor time per call, rate", overhead["rate"], "ms", at_most(1.0)),
            figure("processor time per call, places", overhead["places"], "ms", at_most(1.0)),
            ratio(
                "processor time: the client alone ÷ ours", overhead["client"], overhead["places"]
            ),
            figure("throughput of the client alone ÷ what places allow", samples["client"], "×"),
            figure("memory after the first repeat to the last", growth, "MiB", at_most(16)),
        ],
        setup={
            "calls": calls,
            "callers": _CALLERS,
            "rate": f"{_PER_SECOND}/s",
            "places": _PLACES,
            "callers of the client alone": _PEER_CALLERS,
            "load": psutil.getloadavg()[0],
        },
        peers=("openai",),
        notes=[f"most requests in flight at the server: {bench.most}"],
    )


class _Bench:
    """Runs the sides and keeps what they measure besides."""

    def __init__(self, address: str, calls: int, directory: Path) -> None:
        self._address = address
        self._calls = calls
        self._directory = directory
        self._runs = 0
        self.memory: list[int] = []
        self.overhead_ms: dict[str, list[float]] = {"rate": [], "places": [], "client": []}
        self.most = 0

    def ours(self, **limits: int) -> float:
        """Throughput ÷ what `limits` allow."""
        self._runs += 1
        per_second, processor, stats = self._timed(self._through_executors(limits))
        name = "rate" if "requests_per_minute" in limits else "places"
        self.overhead_ms[name].append(processor / self._calls * 1e3)
        self.most = max(self.most, int(stats["most"]))
        self.memory.append(psutil.Process().memory_info().rss)
        return per_second / (_PER_SECOND if name == "rate" else _by_places(_PLACES, stats))

    def client_alone(self) -> float:
        """The same of the official client without anything around it."""
        per_second, processor, stats = self._timed(self._through_client())
        self.overhead_ms["client"].append(processor / self._calls * 1e3)
        return per_second / _by_places(_PEER_CALLERS, stats)

    def _timed(
        self, work: Coroutine[Any, Any, list[float]]
    ) -> tuple[float, float, Mapping[str, float]]:
        self._stats()
        processor = time.process_time()
        ended = asyncio.run(work)
        first, last = len(ended) // 10, len(ended) * 9 // 10
        per_second = (last - first) / (ended[last] - ended[first])
        return per_second, time.process_time() - processor, self._stats()

    def _stats(self) -> Mapping[str, float]:
        with urllib.request.urlopen(f"{self._address}/stats", timeout=30) as reply:
            found: Mapping[str, float] = json.load(reply)
        return found

    async def _through_executors(self, limits: Mapping[str, int]) -> list[float]:
        main = {
            "kind": "openai_compatible",
            "base_url": f"{self._address}/v1",
            "model": "m",
            "limits": limits,
        }
        values = {"executor": {"backend": "main", "backends": {"main": main}}}
        config = parse_config(values).executor
        hub = Hub(config, Cache(config.cache, self._directory / str(self._runs)))
        executors = Executors(config, hub)

        async def call(number: int) -> None:
            prompt = f"{number} {_PROMPT}"
            await executors.complete(OperatorRequest("Custom", {"task": (prompt,)}, prompt))

        ended = await _all(call, self._calls, _CALLERS)
        await executors.close()
        hub.close()
        return ended

    async def _through_client(self) -> list[float]:
        async with openai.AsyncOpenAI(base_url=f"{self._address}/v1", api_key="none") as client:

            async def call(number: int) -> None:
                await client.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": f"{number} {_PROMPT}"}],
                    temperature=0,
                    max_tokens=1024,
                )

            return await _all(call, self._calls, _PEER_CALLERS)


async def _all(
    call: Callable[[int], Coroutine[Any, Any, None]], calls: int, callers: int
) -> list[float]:
    """Make all calls with so many callers at once; returns when each ended."""
    numbers = iter(range(calls))
    ended = []

    async def caller() -> None:
        for number in numbers:
            await call(number)
            ended.append(time.perf_counter())

    await asyncio.gather(*(caller() for _ in range(min(callers, calls))))
    return ended


def _by_places(places: int, stats: Mapping[str, float]) -> float:
    """Calls a second that so many places allow."""
    return places * stats["requests"] / stats["seconds"]


@contextmanager
def _server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.chat_server", str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{address}/stats", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(10)
