"""The channel: a worker's connection to one sampler, over which its turns are sampled.

A call of Ray costs some milliseconds of processor time, more than all else that a turn costs beside
the engine. So Ray says where a sampler is and whether it lives, and the turns themselves go over a
connection of their own: a few microseconds each, all requests of a worker at once.

A connection that breaks is made anew, and what was asked is asked again: only who knows better says
that a sampler is dead.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Protocol

from actors import frames
from actors.frames import Answer, Ask, FrameError
from actors.listener import Endpoint, keep_alive
from wfr.protocols import PeerLostError, Sample, SamplingRequest


class ListeningSampler(Protocol):
    """What a channel needs of a sampler, by other means than the channel."""

    async def endpoint(self) -> Endpoint:
        """Where it listens; raises PeerLostError when it has died."""
        ...

    async def watch(self) -> None:
        """Return never; raise PeerLostError soon after it has died."""
        ...


class SampleError(RuntimeError):
    """The sampler could not answer a request; the message is what it failed with, and where."""


class Channel:
    """A sampler as a worker sees it; connects at the first request.

    Attributes:
        lost: why no request can be answered any more; None as long as it can.
    """

    def __init__(self, sampler: ListeningSampler, retry_s: float = 0.2) -> None:
        """Ask `sampler`; after a connection broke, try the next `retry_s` seconds later."""
        self._sampler = sampler
        self._retry_s = retry_s
        self._numbers = itertools.count()
        self._asked: dict[int, tuple[bytes, asyncio.Future[Sample]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.lost: PeerLostError | None = None

    async def sample(self, request: SamplingRequest) -> Sample:
        """Continue the tokens of the request.

        Raises:
            PeerLostError: the sampler has died, leaves and has not begun with it, or was given up.
            SampleError: it failed otherwise.
        """
        if self.lost is not None:
            raise PeerLostError(str(self.lost))
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        number = next(self._numbers)
        message = frames.frame(Ask.of(number, request))
        answer: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._asked[number] = message, answer
        try:
            if self._writer is not None:
                self._writer.write(message)
            return await answer
        finally:
            del self._asked[number]

    def close(self, why: str = "the sampler is no longer in use") -> None:
        """Fail every request with PeerLostError, those that wait too."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._end(PeerLostError(why))

    async def _keep(self) -> None:
        """Be connected until the sampler is dead."""
        tasks = [
            asyncio.create_task(self._stay_connected()),
            asyncio.create_task(self._sampler.watch()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for task in done if (error := task.exception()) is not None]
            told = [error for error in errors if isinstance(error, PeerLostError)]
            self._end(*told[:1] or [PeerLostError(f"the channel to it has failed: {errors}")])
        finally:
            for task in tasks:
                task.cancel()

    async def _stay_connected(self) -> None:
        endpoint = await self._sampler.endpoint()
        while True:
            try:
                await self._connection(endpoint)
            except FrameError:
                raise  # it would only come again
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(self._retry_s)

    async def _connection(self, endpoint: Endpoint) -> None:
        """One connection, until it breaks; what waits for an answer is asked (again) first."""
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        try:
            keep_alive(writer)
            writer.write(endpoint.key)
            for message, answer in self._asked.values():
                if not answer.done():
                    writer.write(message)
            self._writer = writer
            while True:
                self._take(await frames.read(reader, Answer))
        finally:
            self._writer = None
            writer.close()

    def _take(self, answer: Answer) -> None:
        """Hand an answer to whoever waits for it; to one that came twice nobody does."""
        _, waiting = self._asked.get(answer.number, (b"", None))
        if waiting is None or waiting.done():
            return
        if answer.lost:
            waiting.set_exception(PeerLostError(answer.error))
        elif answer.error:
            waiting.set_exception(SampleError(answer.error))
        else:
            waiting.set_result(answer.sample())

    def _end(self, error: PeerLostError) -> None:
        self.lost = self.lost or error
        for _, waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(PeerLostError(str(error)))
