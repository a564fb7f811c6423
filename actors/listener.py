"""The listener: a sampler's end of the channels over which workers ask it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import secrets
import socket
import traceback
from collections.abc import Awaitable, Callable

from actors import frames
from actors.frames import Answer, Ask
from wfr.protocols import PeerLostError, Sample, SamplingRequest


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a listener is; whoever connects says `key` first, which nobody else knows."""

    host: str
    port: int
    key: bytes = dataclasses.field(repr=False)


class Listener:
    """Answers requests as they come and as their samples are ready, those of all channels at once.

    A channel that breaks takes its requests with it: they are cancelled, since whoever asked asks
    again.
    """

    def __init__(self, sample: Callable[[SamplingRequest], Awaitable[Sample]], host: str) -> None:
        """Let `sample` answer; listen at the address `host` of this machine alone."""
        self._sample = sample
        self._host = host
        self._key = secrets.token_bytes(KEY_BYTES)
        self._starting = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def endpoint(self) -> Endpoint:
        """Where it is; it listens from the first call on."""
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(self._serve, self._host, 0)
                self._port = self._server.sockets[0].getsockname()[1]
        return Endpoint(self._host, self._port, self._key)

    async def close(self) -> None:
        """Listen no more, and break every channel."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One channel, from its beginning to its end."""
        me = asyncio.current_task()
        assert me is not None
        self._serving.add(me)
        calls: set[asyncio.Task[None]] = set()
        try:
            keep_alive(writer)
            async with asyncio.timeout(_KEY_S):
                key = await reader.readexactly(len(self._key))
            if not hmac.compare_digest(key, self._key):
                return
            while True:
                ask = await frames.read(reader, Ask)
                call = asyncio.create_task(self._answer(ask, writer))
                calls.add(call)
                call.add_done_callback(calls.discard)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end is gone, or none of ours; TimeoutError is an OSError
        finally:
            for call in calls:
                call.cancel()
            writer.close()
            self._serving.discard(me)

    async def _answer(self, ask: Ask, writer: asyncio.StreamWriter) -> None:
        try:
            answer = Answer.of(ask.number, await self._sample(ask.request()))
        except PeerLostError as error:
            answer = Answer(ask.number, error=str(error) or "lost", lost=True)
        except Exception:  # noqa: BLE001 (whatever it is, it is raised where the request came from)
            answer = Answer(ask.number, error=traceback.format_exc())
        with contextlib.suppress(OSError):
            writer.write(frames.frame(answer))
            await writer.drain()


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the connection break within `SILENCE_S` seconds of silence of the other machine."""
    found: socket.socket = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SILENCE_S // 2),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", SILENCE_S // 2),
        ("TCP_USER_TIMEOUT", 1000 * SILENCE_S),
    ):
        if hasattr(socket, name):  # not on every system
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


KEY_BYTES = 32
SILENCE_S = 10
_KEY_S = 10.0
