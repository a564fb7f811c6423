"""A warm process that compares mathematical answers, and is ended where it takes too long.

math-verify's own time-out is a signal, which works in the main thread alone and does not end a
native loop; sympy can be made to run for hours or to fill the memory by one line of LaTeX.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
from types import TracebackType
from typing import Self

_MEMORY_BYTES = 2 << 30
_START_S = 60.0
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "VIRTUAL_ENV")


class MathsProcessError(RuntimeError):
    """The process does not start: a fault of this machine."""


class MathsProcess:
    """Compares answers one at a time; use it as an async context manager.

    An answer that is not read within `timeout_s` counts as different: no gold answer is like that.
    """

    def __init__(self, timeout_s: float = 2.0) -> None:
        """Start nothing yet."""
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start and warm up; raises MathsProcessError."""
        async with self._turn:
            await self._started()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        await self.close()

    async def equal(self, answer: str, gold: str) -> bool:
        """Whether both are the same value; raises MathsProcessError."""
        async with self._turn:
            process = await self._started()
            try:
                return await self._ask(process, answer, gold, self._timeout_s)
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                await self._end()
                return False
            except BaseException:
                await self._end()
                raise

    async def close(self) -> None:
        """End the process; a later call starts another."""
        async with self._turn:
            await self._end()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "wfr.grading.maths_process"),
                stdin=pipe,
                stdout=pipe,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            try:
                await self._ask(self._process, "$x = 1/2$", "$0.5$", _START_S)
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
                await self._end()
                raise MathsProcessError(f"the maths process does not start: {error!r}") from None
        return self._process

    async def _ask(
        self, process: asyncio.subprocess.Process, answer: str, gold: str, timeout: float
    ) -> bool:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([answer, gold]).encode() + b"\n")
        async with asyncio.timeout(timeout):
            await process.stdin.drain()
            return (await process.stdout.readuntil(b"\n")).strip() == b"1"

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def main() -> None:
    """Answer one line `[answer, gold]` with `1` or `0` until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    from wfr.grading.maths import equal

    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing that a library prints is an answer
    for line in sys.stdin:
        answer, gold = json.loads(line)
        try:
            same = equal(answer, gold)
        except Exception:  # noqa: BLE001 (whatever sympy makes of it, it is not the gold value)
            same = False
        reply.write("1\n" if same else "0\n")
        reply.flush()


if __name__ == "__main__":
    main()
