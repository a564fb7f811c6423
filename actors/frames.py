"""Frames: what goes over a channel, each a length (4 bytes) and a MessagePack message.

Typed and bounded, so that whatever comes in from a network is checked and never executed. Arrays
travel as their bytes.
"""

from __future__ import annotations

import array
import asyncio
from typing import TypeVar

import msgspec
import numpy as np

from wfr.protocols import Sample, SamplingRequest
from wfr.trajectory import VersionSpan

MOST_BYTES = 1 << 28
"""Longest message: more than any context and far less than what would exhaust a machine."""


class FrameError(ConnectionError):
    """The other end does not speak this protocol, or its message was damaged."""


class Ask(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request; `tokens` are int32."""

    number: int
    tokens: bytes
    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float
    seed: int | None
    priority: int
    position: int

    @classmethod
    def of(cls, number: int, request: SamplingRequest) -> Ask:
        """The request as number `number` of its channel."""
        return cls(
            number,
            np.asarray(request.tokens, np.int32).tobytes(),
            request.max_tokens,
            request.stop,
            request.temperature,
            request.top_p,
            request.seed,
            request.priority,
            request.position,
        )

    def request(self) -> SamplingRequest:
        """What was asked; raises FrameError where the bytes are no token ids."""
        tokens = array.array("i")
        if len(self.tokens) % tokens.itemsize:
            raise FrameError(f"request {self.number}: {len(self.tokens)} bytes are no token ids")
        tokens.frombytes(self.tokens)
        return SamplingRequest(
            tokens,
            self.max_tokens,
            self.stop,
            self.temperature,
            self.top_p,
            self.seed,
            self.priority,
            self.position,
        )


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A sample, or why there is none; `tokens` are int32, `logprob` float32.

    `error` is empty where there is one; `lost`: the sampler has died or leaves, ask another.
    """

    number: int
    tokens: bytes = b""
    logprob: bytes = b""
    spans: tuple[tuple[int, int, int], ...] = ()
    finish_reason: str = ""
    error: str = ""
    lost: bool = False

    @classmethod
    def of(cls, number: int, sample: Sample) -> Answer:
        """The sample that request `number` got."""
        return cls(
            number,
            np.asarray(sample.tokens, np.int32).tobytes(),
            np.asarray(sample.logprob, np.float32).tobytes(),
            tuple((span.start, span.end, span.version) for span in sample.spans),
            sample.finish_reason,
        )

    def sample(self) -> Sample:
        """What was sampled; raises FrameError where there is not one log-probability per token."""
        if len(self.tokens) % 4 or len(self.tokens) != len(self.logprob):
            raise FrameError(
                f"answer {self.number}: {len(self.tokens)} bytes of tokens, {len(self.logprob)} of "
                "log-probabilities"
            )
        return Sample(
            np.frombuffer(self.tokens, np.int32),
            np.frombuffer(self.logprob, np.float32),
            tuple(VersionSpan(*span) for span in self.spans),
            self.finish_reason,
        )


Message = TypeVar("Message", Ask, Answer)

_ENCODER = msgspec.msgpack.Encoder()
_LENGTH = 4


def frame(message: Ask | Answer) -> bytes:
    """The bytes to send."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(_LENGTH, "big") + body


async def read(reader: asyncio.StreamReader, kind: type[Message]) -> Message:
    """The next message.

    Raises:
        FrameError: it is none of this kind, or too long.
        asyncio.IncompleteReadError: the connection has ended.
    """
    length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    if length > MOST_BYTES:
        raise FrameError(f"a message of {length} bytes, above the bound of {MOST_BYTES}")
    body = await reader.readexactly(length)
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise FrameError(f"no {kind.__name__}: {error}") from error
