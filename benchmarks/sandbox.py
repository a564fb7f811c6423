"""Model-written programs: a warm call, with and without tests, and how many run in a second.

The peer is what people write first: `python -I -c PROGRAM` in a subprocess, unconfined.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.harness import Result, at_least, at_most, figure, interleave, ratio
from wfr.config import SandboxConfig
from wfr.sandbox import Sandbox

_PROGRAM = "def add(a, b):\n    return a + b\nprint(add(2, 3))"
_TESTS = ("assert add(2, 3) == 5", "assert add('a', 'b') == 'ab'")
_PROCESSES = 2


def run(quick: bool) -> Result:
    """Measure behind the wall that this machine offers."""
    return asyncio.run(_measure(calls=20 if quick else 200, repeats=2 if quick else 7))


async def _measure(calls: int, repeats: int) -> Result:
    async with Sandbox(SandboxConfig(processes=_PROCESSES)) as sandbox:
        loop = asyncio.get_running_loop()

        def one_by_one(call: Callable[[], Awaitable[object]]) -> Callable[[], float]:
            return lambda: asyncio.run_coroutine_threadsafe(_each(call, calls), loop).result()

        def together() -> float:
            return asyncio.run_coroutine_threadsafe(_all(sandbox, calls), loop).result()

        samples = await asyncio.to_thread(
            interleave,
            {
                "plain": one_by_one(lambda: sandbox.run(_PROGRAM)),
                "tested": one_by_one(lambda: sandbox.run(_PROGRAM, tests=_TESTS)),
                "subprocess": one_by_one(_subprocess),
                "rate": together,
            },
            repeats=repeats,
        )
        wall = sandbox.wall
    plain = [seconds * 1e3 for seconds in samples["plain"]]
    tested = [seconds * 1e3 for seconds in samples["tested"]]
    return Result(
        [
            figure("warm call", plain, "ms", at_most(15)),
            figure("warm call with two tests", tested, "ms", at_most(15)),
            figure("programs per second", samples["rate"], "1/s", at_least(40)),
            ratio(
                "unconfined subprocess ÷ sandbox, one call", samples["subprocess"], samples["plain"]
            ),
        ],
        setup={"wall": wall, "processes": _PROCESSES, "calls": calls, "program": _PROGRAM},
    )


async def _each(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Median seconds of calls made one after the other."""
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[calls // 2]


async def _all(sandbox: Sandbox, calls: int) -> float:
    """Programs per second when all are asked for at once."""
    started = time.perf_counter()
    await asyncio.gather(*(sandbox.run(_PROGRAM) for _ in range(calls)))
    return calls / (time.perf_counter() - started)


async def _subprocess() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", _PROGRAM, stdout=pipe
    )
    await process.communicate()
