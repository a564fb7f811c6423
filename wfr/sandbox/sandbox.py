"""The sandbox as its users see it: text in, result out, never a blocked event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import posixpath
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from wfr.config import SandboxConfig
from wfr.sandbox.confinement import Wall, choose
from wfr.sandbox.process import ZygoteDiedError, ZygoteProcess


class Status(StrEnum):
    """How a program ended. All but `unavailable` are the program's own doing.

    `failed`: it ran, and a test of it did not pass. `unavailable`: there is no sandbox, or a test
    asks for what a trial cannot do (its message says what).
    """

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    UNAVAILABLE = "unavailable"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use; none: what the configuration says. Seconds and MiB."""

    wall_s: float | None = None
    memory_mib: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no program could run under."""
        if (self.wall_s is not None and self.wall_s <= 0) or (
            self.memory_mib is not None and self.memory_mib < 16
        ):
            raise ValueError(f"{self}: need wall_s above 0 and memory_mib of at least 16")


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What one program took: wall time, processor time, and its largest resident size."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mib: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class TestOutcome:
    """What became of one test: `passed`, `failed`, `error`, `lost` or `unsupported`, and why."""

    __test__ = False  # pytest: not a test class

    status: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a program left behind.

    Attributes:
        status: `passed` only if it ran past its last line (an early exit is an error) and passed
            all tests.
        stdout: cut at 1 MiB; so is `stderr`, which holds the traceback of an error.
        value: repr of the last expression, None where there is none or where there are tests. Data
            from untrusted code.
        tests: one for each test in order; shorter where the program did not come so far.
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    tests: tuple[TestOutcome, ...] = ()
    usage: Usage = Usage()


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

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        tests: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> Result:
        r"""Run one Python program and, where there are any, tests of what it defines.

        The tests run in a process of their own, which calls the program's functions in the
        program's process and gets copies of what they return: a program cannot see, change or
        answer for its tests. They run in order and share their names; a name that they use and do
        not define is the program's.

            await sandbox.run("def add(a, b):\n    return a + b", tests=["assert add(2, 3) == 5"])

        Args:
            code: the program.
            stdin: what it can read.
            files: relative path and content of files in its directory.
            tests: pieces of Python, usually assertions.
            limits: instead of the configured ones.

        Raises:
            RuntimeError: the sandbox is closed.
            ValueError: a path in `files` leaves the directory.
        """
        limits = limits or Limits()
        request = {
            "code": code,
            "stdin": stdin,
            "files": {_inside(name): _hex(body) for name, body in (files or {}).items()},
            "tested": bool(tests),
            "limits": {
                **({"wall_s": limits.wall_s} if limits.wall_s else {}),
                **({"memory_bytes": limits.memory_mib << 20} if limits.memory_mib else {}),
            },
        }
        slot = await self._take()
        try:
            return await self._attempt(slot, request, list(tests))
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

    async def _attempt(self, slot: _Slot, request: dict[str, Any], tests: list[str]) -> Result:
        """Ask; where the zygote died, ask a new one once."""
        reason = ""
        for _ in range(2):
            self._check_open()
            try:
                return await self._ask(slot, request, tests)
            except ZygoteDiedError as error:
                reason = str(error)
        self._check_open()
        return Result(Status.UNAVAILABLE, stderr=reason)

    async def _ask(self, slot: _Slot, request: dict[str, Any], tests: list[str]) -> Result:
        if slot.zygote is None:
            slot.zygote = await self._start()
        zygote = slot.zygote
        try:
            frames = [request, tests] if tests else [request]
            reply = await zygote.ask(*frames, wall_s=request["limits"].get("wall_s"))
        except BaseException:
            slot.zygote = None
            zygote.kill()
            raise
        if reply["dirty"]:
            slot.zygote = None
            await zygote.close()  # it left files: a fresh room costs less than trust in a sweep
        return Result(
            status=Status(reply["status"]),
            stdout=reply["stdout"],
            stderr=reply["stderr"],
            value=reply["value"],
            tests=tuple(TestOutcome(*outcome) for outcome in reply["tests"]),
            usage=Usage(**reply["usage"]),
        )

    async def _start(self) -> ZygoteProcess:
        assert self._wall is not None
        zygote = await ZygoteProcess.start(self._wall, self._config)
        if self._closed:
            await zygote.close()
        self._check_open()
        return zygote


def _inside(name: str) -> str:
    path = posixpath.normpath(name)
    if path.startswith(("/", "../")) or path in ("..", "."):
        raise ValueError(f"files[{name!r}]: expected a path below the program's directory")
    return path


def _hex(body: str | bytes) -> str:
    return (body.encode() if isinstance(body, str) else body).hex()
