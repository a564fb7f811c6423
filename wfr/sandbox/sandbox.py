"""The sandbox as its users see it: text in, result out, never a blocked event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from wfr.config import SandboxConfig
from wfr.sandbox.confinement import Wall, choose
from wfr.sandbox.process import ZygoteDiedError, ZygoteProcess


class Status(StrEnum):
    """How a program ended. All but `unavailable` are the program's own doing."""

    PASSED = "passed"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    UNAVAILABLE = "unavailable"


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a program left behind.

    Attributes:
        status: `passed` only if it ran past its last line (an early exit is an error).
        stdout: cut at 1 MiB; so is `stderr`, which holds the traceback of an error.
        value: repr of the last expression, None where there is none. Data from untrusted code.
        seconds: wall time inside the sandbox.
    """

    status: Status
    stdout: str
    stderr: str
    value: str | None
    seconds: float


class _Slot:
    """Room for one warm zygote; empty until used, and again after it died."""

    zygote: ZygoteProcess | None = None


class Sandbox:
    r"""A pool of `config.processes` warm, confined interpreters.

        async with Sandbox(SandboxConfig()) as sandbox:
            result = await sandbox.run("n = int(input())\nn * 2", stdin="21")
        assert (result.status, result.value) == (Status.PASSED, "42")

    Every program runs in a fork of its own; nothing of it is left for the next one. Calls beyond
    the size of the pool wait for their turn, first come, first served.
    """

    def __init__(self, config: SandboxConfig) -> None:
        """Start nothing yet."""
        self._config = config
        self._wall: Wall | None = None
        self._slots = [_Slot() for _ in range(config.processes)]
        self._idle: asyncio.Queue[_Slot] = asyncio.Queue()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Choose the wall and warm the pool; raises SandboxUnavailableError."""
        self._wall = await asyncio.to_thread(choose, self._config)
        for slot in self._slots:
            slot.zygote = await self._start()
            self._idle.put_nowait(slot)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    @property
    def wall(self) -> str:
        """Name of the isolation in use: `bubblewrap`, `namespaces` or `unconfined`."""
        return self._wall.name if self._wall else "none"

    async def run(self, code: str, *, stdin: str = "") -> Result:
        """Run one Python program; raises RuntimeError once the sandbox is closed."""
        slot = await self._take()
        try:
            return await self._attempt(slot, {"code": code, "stdin": stdin})
        finally:
            self._idle.put_nowait(slot)

    async def close(self) -> None:
        """End every process; runs under way and waiting raise RuntimeError."""
        self._closed = True
        zygotes = [slot.zygote for slot in self._slots if slot.zygote is not None]
        await asyncio.gather(*(zygote.close() for zygote in zygotes))

    async def _take(self) -> _Slot:
        self._check_open()
        slot = await self._idle.get()
        if self._closed:
            self._idle.put_nowait(slot)
        self._check_open()
        return slot

    def _check_open(self) -> None:
        if self._closed or self._wall is None:
            raise RuntimeError("the sandbox is closed" if self._closed else "use `async with`")

    async def _attempt(self, slot: _Slot, request: dict[str, Any]) -> Result:
        """Ask; where the zygote died, ask a new one once."""
        reason = ""
        for _ in range(2):
            self._check_open()
            try:
                return await self._ask(slot, request)
            except ZygoteDiedError as error:
                reason = str(error)
        self._check_open()
        return Result(Status.UNAVAILABLE, "", reason, None, 0.0)

    async def _ask(self, slot: _Slot, request: dict[str, Any]) -> Result:
        if slot.zygote is None:
            slot.zygote = await self._start()
        zygote = slot.zygote
        try:
            reply = await zygote.ask(request)
        except BaseException:
            slot.zygote = None
            zygote.kill()
            raise
        if reply.pop("dirty"):
            slot.zygote = None
            await zygote.close()  # it left files: a fresh room costs less than trust in a sweep
        return Result(status=Status(reply.pop("status")), **reply)

    async def _start(self) -> ZygoteProcess:
        assert self._wall is not None
        zygote = await ZygoteProcess.start(self._wall, self._config)
        if self._closed:
            await zygote.close()
        self._check_open()
        return zygote
