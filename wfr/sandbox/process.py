"""A zygote seen from outside: one request, one reply, at a time."""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
from collections.abc import Sequence
from typing import Any

from wfr.config import SandboxConfig
from wfr.sandbox.confinement import Wall, setup_frame

_START_S = 20.0
_GRACE_S = 5.0
_STOP_S = 2.0


class ZygoteDiedError(RuntimeError):
    """The zygote ended, or stopped answering, or never started."""


class ZygoteProcess:
    """Handle of one running zygote."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        scratch: tempfile.TemporaryDirectory[str] | None,
        wall_s: float,
    ) -> None:
        self._process = process
        self._scratch = scratch
        self._wall_s = wall_s

    @classmethod
    async def start(cls, wall: Wall, config: SandboxConfig) -> ZygoteProcess:
        """Start one and wait until it is warm; raises ZygoteDiedError."""
        pipe = asyncio.subprocess.PIPE
        scratch = None if wall.has_own_tmp else _make_scratch()
        process = await asyncio.create_subprocess_exec(
            *wall.command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=scratch.name if scratch else None,
            env=wall.environment,
            start_new_session=True,
        )
        zygote = cls(process, scratch, config.wall_s)
        try:
            await zygote._exchange([setup_frame(config)], _START_S)
        except BaseException:
            zygote.kill()
            raise
        return zygote

    async def ask(self, *frames: object, wall_s: float | None = None) -> dict[str, Any]:
        """The reply to one request that may run for `wall_s`; raises ZygoteDiedError."""
        return await self._exchange(frames, (wall_s or self._wall_s) + _GRACE_S)

    def kill(self) -> None:
        """End it at once, without waiting; process 1 takes its namespace along."""
        if self._process.returncode is None:
            self._process.kill()
        self._clean_up()

    async def close(self) -> None:
        """End it and wait until it, and all it started, is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._wait()

    async def _exchange(self, frames: Sequence[object], timeout: float) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(self._converse(frames), timeout)
        except TimeoutError:
            self.kill()
            raise ZygoteDiedError(f"the sandbox did not answer within {timeout:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ZygoteDiedError(await self._last_words()) from None

    async def _converse(self, frames: Sequence[object]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        for body in (json.dumps(frame).encode() for frame in frames):
            stdin.write(struct.pack(">I", len(body)) + body)
        await stdin.drain()
        (size,) = struct.unpack(">I", await stdout.readexactly(4))
        reply: dict[str, Any] = json.loads(await stdout.readexactly(size))
        return reply

    async def _last_words(self) -> str:
        code = await self._wait()
        assert self._process.stderr is not None
        said = (await self._process.stderr.read(4096)).decode(errors="replace").strip()
        return f"the sandbox process ended with exit code {code}: {said or 'no message'}"

    async def _wait(self) -> int:
        """Exit code; a process that does not end by itself is ended."""
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self.kill()
        code = await self._process.wait()
        self._clean_up()
        return code

    def _clean_up(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()


def _make_scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="wfr-sandbox-", ignore_cleanup_errors=True)
