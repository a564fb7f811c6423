"""Channels over real connections: answers, order, breaks, deaths, and who may connect."""

from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from actors import frames
from actors.channel import Channel, SampleError
from actors.frames import Answer, Ask, FrameError
from actors.listener import Endpoint, Listener
from wfr.protocols import PeerLostError, Sample, SamplingRequest
from wfr.testing import FakeSampler, settle
from wfr.trajectory import VersionSpan

HOST = "127.0.0.1"
REQUEST = SamplingRequest([1, 2, 3], 8, ("</a>",), 1.0)


class Sampler:
    """A fake sampler behind a listener, as a channel sees it; `die` is what Ray would tell."""

    def __init__(self, sample):
        self.listener = Listener(sample, HOST)
        self.dead = asyncio.Event()
        self.endpoints = 0

    async def endpoint(self):
        self.endpoints += 1
        return await self.listener.endpoint()

    async def watch(self):
        await self.dead.wait()
        raise PeerLostError("its process has died")


@contextlib.asynccontextmanager
async def connected(sample, **options):
    sampler = Sampler(sample)
    channel = Channel(sampler, retry_s=0.0, **options)
    try:
        yield sampler, channel
    finally:
        channel.close()
        await sampler.listener.close()
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks, timeout=10)  # nothing may be left; pytest's own limit ends it


async def until(condition):
    """Let the loop's connections go on until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


ids = st.lists(st.integers(0, 2**31 - 1), max_size=20)
requests = st.builds(
    SamplingRequest,
    ids.map(lambda each: array.array("i", each)),
    st.integers(1, 2**40),
    st.lists(st.text(), max_size=3).map(tuple),
    st.floats(0, 2),
    st.floats(0, 1),
    st.none() | st.integers(0, 2**32),
    st.integers(-(2**62), 2**62),
    st.integers(0, 2**40),
)


@given(st.integers(0, 2**60), requests)
def test_a_request_comes_out_as_it_went_in(number, request):
    ask = Ask.of(number, request)
    assert _through(ask, Ask) == ask
    assert _through(ask, Ask).request() == request


@given(st.integers(0, 2**60), ids, st.lists(st.tuples(*[st.integers(0, 2**40)] * 3)), st.text())
def test_a_sample_comes_out_as_it_went_in(number, tokens, spans, reason):
    tokens = np.array(tokens, np.int32)
    spans = tuple(VersionSpan(*span) for span in spans)
    sample = Sample(tokens, FakeSampler.logprob(tokens), spans, reason)
    answer = Answer.of(number, sample)
    found = _through(answer, Answer).sample()
    assert found.tokens.dtype == np.int32
    assert found.logprob.dtype == np.float32
    assert np.array_equal(found.tokens, tokens)
    assert np.array_equal(found.logprob, sample.logprob)
    assert (found.spans, found.finish_reason) == (spans, reason)


@given(st.binary(max_size=64))
def test_whatever_comes_in_is_a_message_or_refused(body):
    data = len(body).to_bytes(4, "big") + body
    for kind in (Ask, Answer):
        with contextlib.suppress(FrameError):
            message = _read(data, kind)
            assert isinstance(message, kind)
            message.request() if kind is Ask else message.sample()


def test_what_is_too_long_or_cut_off_is_refused():
    with pytest.raises(FrameError, match="above the bound"):
        _read((frames.MOST_BYTES + 1).to_bytes(4, "big"), Ask)
    with pytest.raises(asyncio.IncompleteReadError):
        _read(frames.frame(Answer(1))[:-1], Answer)
    with pytest.raises(FrameError, match="4 bytes of tokens, 8"):
        Answer(1, bytes(4), bytes(8)).sample()
    with pytest.raises(FrameError, match="3 bytes are no token ids"):
        Ask(1, bytes(3), 1, (), 1.0, 1.0, None, 0, 0).request()


def _through(message, kind):
    return _read(frames.frame(message), kind)


def _read(data, kind):
    async def main():
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await frames.read(reader, kind)

    return asyncio.run(main())


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    """Both kinds of event loop: Ray runs its actors in the second."""
    return request.param


def test_answers_come_when_they_are_ready_in_any_order(run):
    async def main():
        gates = {n: asyncio.Event() for n in range(3)}
        asked = []

        async def sample(request):
            asked.append(request)
            await gates[request.position].wait()
            tokens = np.array([request.position], np.int32)
            return Sample(tokens, FakeSampler.logprob(tokens), (VersionSpan(0, 1, 7),), "stop")

        async with connected(sample) as (sampler, channel):
            calls = [
                asyncio.ensure_future(channel.sample(dataclasses.replace(REQUEST, position=n)))
                for n in range(3)
            ]
            await until(lambda: len(asked) == 3)
            for n in (2, 0, 1):
                gates[n].set()
                found = await calls[n]
                assert found.tokens.tolist() == [n]
                assert found.spans == (VersionSpan(0, 1, 7),)
                assert sum(call.done() for call in calls) == 1 + (2, 0, 1).index(n)
            assert sampler.endpoints == 1
            assert list(asked[0].tokens) == [1, 2, 3]
            assert all(type(token) is int for token in asked[0].tokens)

    run(main())


def test_a_sampler_that_leaves_says_so_and_other_errors_are_told_with_their_place(run):
    async def main():
        errors = [PeerLostError("it is leaving"), ValueError("too long")]

        async def sample(request):
            raise errors.pop(0)

        async with connected(sample) as (_, channel):
            with pytest.raises(PeerLostError, match="it is leaving"):
                await channel.sample(REQUEST)
            with pytest.raises(SampleError, match=r"(?s)test_channel.*ValueError: too long"):
                await channel.sample(REQUEST)
            assert channel.lost is None

    run(main())


def test_a_broken_connection_is_made_anew_and_what_waits_is_asked_again(run):
    async def main():
        fake = FakeSampler([5, 6])
        fake.open.clear()
        async with connected(fake.sample) as (sampler, channel):
            calls = [asyncio.ensure_future(channel.sample(REQUEST)) for _ in range(2)]
            await until(lambda: len(fake.requests) == 2)
            (serving,) = sampler.listener._serving
            serving.cancel()  # the connection ends, and its requests with it
            await until(lambda: len(fake.requests) == 4)
            assert not any(call.done() for call in calls)
            fake.open.set()
            assert [(await call).tokens.tolist() for call in calls] == [[5, 6], [5, 6]]
            assert fake.emitted == 4  # what was cut off samples no more
            assert sampler.endpoints == 1

    run(main())


def test_a_dead_sampler_fails_what_waits_and_what_comes(run):
    async def main():
        fake = FakeSampler([5])
        fake.open.clear()
        async with connected(fake.sample) as (sampler, channel):
            call = asyncio.ensure_future(channel.sample(REQUEST))
            await until(lambda: fake.requests)
            sampler.dead.set()
            for each in (call, channel.sample(REQUEST)):
                with pytest.raises(PeerLostError, match="its process has died"):
                    await each
            assert "has died" in str(channel.lost)

    run(main())


def test_one_whose_machine_refuses_connections_is_waited_for_until_it_is_dead(run):
    async def main():
        fake = FakeSampler([5])
        async with connected(fake.sample) as (sampler, channel):
            await sampler.listener.endpoint()
            await sampler.listener.close()
            call = asyncio.ensure_future(channel.sample(REQUEST))
            await settle(rounds=500)
            assert not call.done()
            sampler.dead.set()
            with pytest.raises(PeerLostError, match="its process has died"):
                await call

    run(main())


def test_a_sampler_that_is_dead_before_it_is_asked_where_it_listens(run):
    class Dead:
        async def endpoint(self):
            raise PeerLostError("dead already")

        async def watch(self):
            await asyncio.Event().wait()

    async def main():
        with pytest.raises(PeerLostError, match="dead already"):
            await Channel(Dead()).sample(REQUEST)

    run(main())


def test_closing_fails_what_waits(run):
    async def main():
        fake = FakeSampler([5])
        fake.open.clear()
        async with connected(fake.sample) as (_, channel):
            call = asyncio.ensure_future(channel.sample(REQUEST))
            await until(lambda: fake.requests)
            channel.close()
            with pytest.raises(PeerLostError, match="no longer in use"):
                await call

    run(main())


def test_a_request_that_nobody_waits_for_any_more_disturbs_nobody(run):
    async def main():
        fake = FakeSampler([5], [6])
        fake.open.clear()
        async with connected(fake.sample) as (_, channel):
            dropped = asyncio.ensure_future(channel.sample(REQUEST))
            await until(lambda: fake.requests)
            dropped.cancel()
            await asyncio.gather(dropped, return_exceptions=True)
            kept = asyncio.ensure_future(channel.sample(REQUEST))
            await until(lambda: len(fake.requests) == 2)
            fake.open.set()
            assert (await kept).tokens.tolist() == [6]

    run(main())


@pytest.mark.parametrize("said", [b"x" * 32, b"", b"GET / HTTP/1.1\r\n\r\n" * 3])
def test_who_does_not_know_the_key_gets_nothing(run, said):
    async def main():
        fake = FakeSampler([5])
        async with connected(fake.sample) as (sampler, _):
            place = await sampler.listener.endpoint()
            assert place.key not in repr(place).encode()
            reader, writer = await asyncio.open_connection(place.host, place.port)
            writer.write(said + frames.frame(Ask.of(0, REQUEST)))
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            assert fake.requests == []

    run(main())


def test_nonsense_ends_its_channel_and_no_other(run):
    async def main():
        fake = FakeSampler([5])
        async with connected(fake.sample) as (sampler, channel):
            place = await sampler.listener.endpoint()
            reader, writer = await asyncio.open_connection(place.host, place.port)
            writer.write(place.key + (5).to_bytes(4, "big") + b"xxxxx")
            assert await reader.read() == b""
            writer.close()
            assert (await channel.sample(REQUEST)).tokens.tolist() == [5]

    run(main())


def test_an_answer_that_is_none_ends_the_channel(run):
    async def main():
        async def serve(reader, writer):
            await reader.readexactly(1)
            writer.write((1).to_bytes(4, "big") + b"\x00")

        server = await asyncio.start_server(serve, HOST, 0)
        port = server.sockets[0].getsockname()[1]

        class Broken:
            async def endpoint(self):
                return Endpoint(HOST, port, b"k")

            async def watch(self):
                await asyncio.Event().wait()

        with pytest.raises(PeerLostError, match="FrameError"):
            await Channel(Broken()).sample(REQUEST)
        server.close()

    run(main())
