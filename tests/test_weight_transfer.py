"""In-flight updates through real vLLM: one turn, two versions, and everything about it agrees."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import types

import pytest
import torch

from actors.resend import join
from cluster.two_phases import SamplersClient
from wfr.config import TinyModelConfig, parse_config
from wfr.protocols import PeerLostError, SamplersLostError, SamplingRequest, TransferGroup

pytestmark = pytest.mark.engine

PROMPT = list(range(20, 50))


class LocalSamplers(SamplersClient):
    """Control calls onto samplers in another thread's event loop; notes them in order."""

    def __init__(self, samplers, loop):
        super().__init__(list(samplers), 1)
        self._samplers, self._loop = samplers, loop
        self.calls = []

    def call(self, method, arguments):
        self.calls.append(method)
        pending = {
            name: asyncio.run_coroutine_threadsafe(
                getattr(self._samplers[name], method)(*args), self._loop
            )
            for name, args in arguments.items()
        }
        return {name: future.exception(120) for name, future in pending.items()}


@pytest.fixture(scope="module")
def director(tmp_path_factory):
    """A random tiny director on disk, and in memory with other weights to publish."""
    from learner.tiny import build_model, build_tokenizer

    path = tmp_path_factory.mktemp("director")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path)
    shape = TinyModelConfig(layers=2, hidden=64, intermediate=128, heads=2)
    build_model(shape, len(tokenizer), 1).save_pretrained(path)
    return path, [build_model(shape, len(tokenizer), seed).eval() for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def rig(director):
    """A running sampler, its event loop in a thread, and a publisher connected to it."""
    from actors.sampler import Sampler
    from cluster.ports import free_port
    from learner.publisher import EngineSource, Publisher

    path, models = director
    config = parse_config(
        {
            "model": {"max_length": 1024},
            "sampler": {"max_num_seqs": 16},
            "weights": {"checksums": True},
        }
    )
    sampler = Sampler(config, str(path), "cpu")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(120)

    run(_async(sampler.warm_up)(PROMPT))
    trained = types.SimpleNamespace(gathered=lambda parameters: contextlib.nullcontext())
    live = _copy(models[0])
    source = EngineSource(trained, live)
    publisher = Publisher(source, rank=0, checksums=True)
    client = LocalSamplers({"sampler-0": sampler}, loop)

    def connect():
        group = TransferGroup("gloo", "127.0.0.1", free_port(), 2, 1 << 18, 30.0)
        publisher.connect(group, client)

    connect()
    yield types.SimpleNamespace(
        sampler=sampler,
        run=run,
        publisher=publisher,
        source=source,
        live=live,
        models=models,
        loop=loop,
        client=client,
        connect=connect,
    )
    run(_async(sampler.shutdown)())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture(params=["keep_kv", "recompute_kv", "finish_turn", "abort_resend"])
def policy(rig, request):
    """The sampler under one policy."""
    rig.sampler._in_flight = request.param
    yield request.param
    rig.sampler._in_flight = "keep_kv"


def _async(function):
    async def call(*args):
        result = function(*args)
        return await result if asyncio.iscoroutine(result) else result

    return call


def _copy(model):
    import copy

    return copy.deepcopy(model)


def _publish(rig, index, version):
    rig.live.load_state_dict(rig.models[index].state_dict())
    rig.publisher.publish(version)


@torch.no_grad()
def _replay(models, prompt, sample, *, recompute=False):
    """Log-probs of the sampled tokens, step by step, each under the weights its span names.

    The KV cache grows under the weights in force at each step, which is what `keep_kv` means; with
    `recompute` all of it is made anew when the version changes.
    """
    versions = [s.version for s in sample.spans for _ in range(s.start, s.end)]
    cache, feed, logprobs, before = None, list(prompt), [], None
    tokens = sample.tokens.tolist()
    for index, (token, version) in enumerate(zip(tokens, versions, strict=True)):
        if recompute and version != before:
            cache, feed = None, [*prompt, *tokens[:index]]
        before = version
        out = models[version](input_ids=torch.tensor([feed]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logprobs.append(torch.log_softmax(out.logits[0, -1].float(), -1)[token].item())
        feed = [token]
    return logprobs


def _sample_through_updates(rig, policy):
    """300 tokens, begun under version 0, while versions 1 and 2 are published.

    Between the updates another request runs to its end, so that this one gets on too. Seeds are
    tried until no end-of-sequence token cuts it short.
    """
    for seed in range(20):
        _publish(rig, 0, 0)
        request = SamplingRequest(PROMPT, 300, (), 1.0, seed=seed)
        pending = asyncio.run_coroutine_threadsafe(rig.sampler.sample(request), rig.loop)
        for version in (1, 2):
            rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 20, (), 1.0, seed=seed)))
            _publish(rig, version, version)
            assert pending.done() or policy != "finish_turn"
        sample = pending.result(120)
        if len(sample.tokens) == 300:
            break
    assert len(sample.tokens) == len(sample.logprob) == 300
    assert sample.finish_reason == "length"
    assert sample.spans[0].start == 0
    assert sample.spans[-1].end == 300
    assert all(a.end == b.start for a, b in zip(sample.spans, sample.spans[1:], strict=False))
    return sample


def _agrees(sample, expected):
    return sample.logprob.tolist() == pytest.approx(expected, abs=2e-3)


def test_what_an_update_does_to_a_turn_being_sampled(rig, policy):
    """Spans and log-probs: each policy against the replay that its definition says."""
    sample = _sample_through_updates(rig, policy)
    versions = [span.version for span in sample.spans]
    if policy == "finish_turn":
        assert versions == [0]  # the updates waited for its end
        assert _agrees(sample, _replay(rig.models, PROMPT, sample))
        return
    assert len(versions) >= 2, versions
    assert versions == sorted(set(versions))
    kept = _replay(rig.models, PROMPT, sample)
    recomputed = _replay(rig.models, PROMPT, sample, recompute=True)
    right, wrong = (kept, recomputed) if policy == "keep_kv" else (recomputed, kept)
    assert _agrees(sample, right)
    assert not _agrees(sample, wrong)


def test_who_sleeps_samples_nothing_and_goes_on_with_the_same_turn(rig):
    """On a CPU no memory is freed by it; what vLLM does with requests is the same."""
    _publish(rig, 1, 1)
    request = SamplingRequest(PROMPT, 200, (), 0.0)
    whole = rig.run(rig.sampler.sample(request))
    pending = asyncio.run_coroutine_threadsafe(rig.sampler.sample(request), rig.loop)
    rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 5, (), 0.0)))
    rig.run(rig.sampler.doze())
    assert rig.run(_async(rig.sampler.load)()) == (1, True)
    rig.run(rig.sampler.ping())
    late = asyncio.run_coroutine_threadsafe(rig.sampler.sample(request), rig.loop)
    with pytest.raises(TimeoutError):
        pending.result(1.0)
    rig.run(rig.sampler.wake())
    rig.run(rig.sampler.wake())
    assert pending.result(120).tokens.tolist() == whole.tokens.tolist()
    assert late.result(120).tokens.tolist() == whole.tokens.tolist()
    assert rig.run(_async(rig.sampler.load)()) == (0, False)


def test_an_update_wakes_who_sleeps(rig):
    rig.run(rig.sampler.doze())
    _publish(rig, 2, 2)
    sample = rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 8, (), 1.0)))
    assert [span.version for span in sample.spans] == [2]
    assert _agrees(sample, _replay(rig.models, PROMPT, sample))


def test_the_prefix_cache_survives_only_where_nothing_else_is_asked(rig, policy):
    """After an update the same prompt is never continued from what older weights computed."""
    prompt = [20 + i % 700 for i in range(600)]  # several whole cache blocks
    for version in (1, 2):
        _publish(rig, version, version)
        request = SamplingRequest(prompt, 8, (), 1.0)
        for _ in range(2):  # computed, then taken from the cache
            sample = rig.run(rig.sampler.sample(request))
            assert [span.version for span in sample.spans] == [version]
            assert _agrees(sample, _replay(rig.models, prompt, sample))


def test_requests_that_come_during_an_update_are_of_the_new_version(rig, policy):
    """They wait behind the pause with a salt of their own, whenever they come."""
    _publish(rig, 0, 0)
    prompt = [20 + i % 500 for i in range(300)]
    request = SamplingRequest(prompt, 4, (), 1.0)
    rig.run(rig.sampler.sample(request))  # version 0 leaves the prefix in the cache
    coming = []
    begin = rig.sampler.begin_update

    async def begin_and_ask():
        beginning = asyncio.create_task(begin())
        await asyncio.sleep(0)
        coming.extend(asyncio.create_task(rig.sampler.sample(request)) for _ in range(3))
        await beginning
        coming.append(asyncio.create_task(rig.sampler.sample(request)))

    rig.sampler.begin_update = begin_and_ask
    try:
        _publish(rig, 1, 1)
    finally:
        rig.sampler.begin_update = begin

    async def answers():
        return await asyncio.gather(*coming)

    for sample in rig.run(answers()):
        recompute = policy != "keep_kv"
        assert _agrees(sample, _replay(rig.models, prompt, sample, recompute=recompute))
        assert sample.spans[-1].version == 1


def test_the_same_seed_and_the_same_weights_give_the_same_tokens(rig, policy):
    _publish(rig, 1, 1)
    request = SamplingRequest(PROMPT, 40, (), 1.0, seed=11)
    first, second = (rig.run(rig.sampler.sample(request)).tokens.tolist() for _ in range(2))
    assert first == second


def test_a_version_is_in_force_only_after_both_phases(rig):
    """Prepared weights are not sampled from: generation stands still between the phases."""
    _publish(rig, 0, 0)
    pending = []
    call = rig.client.call

    def between(method, arguments):
        if method == "commit_update":
            request = SamplingRequest(PROMPT, 4, (), 1.0)
            sampling = rig.sampler.sample(request)
            pending.append(asyncio.run_coroutine_threadsafe(sampling, rig.loop))
            with pytest.raises(TimeoutError):
                pending[0].result(1.0)  # a second is many times what four tokens take
        return call(method, arguments)

    rig.client.calls.clear()
    rig.client.call = between
    try:
        _publish(rig, 1, 1)
    finally:
        del rig.client.call
    assert rig.client.calls == ["begin_update", "receive_update", "prepare_update", "commit_update"]
    sample = pending[0].result(60)
    assert [span.version for span in sample.spans] == [1]
    assert _agrees(sample, _replay(rig.models, PROMPT, sample))


def test_an_update_that_breaks_off_is_replaced_by_a_whole_one(rig):
    """The trainer fails in the middle; a request waits; the next update puts all of it right."""
    _publish(rig, 0, 0)
    stream = type(rig.source).__iter__

    def broken(source):
        for number, pair in enumerate(stream(source)):
            if number == 9:
                raise RuntimeError("the trainer stumbles")
            yield pair

    type(rig.source).__iter__ = broken
    try:
        with pytest.raises((SamplersLostError, RuntimeError)):
            _publish(rig, 1, 1)
    finally:
        type(rig.source).__iter__ = stream
    request = SamplingRequest(PROMPT, 20, (), 1.0)
    pending = asyncio.run_coroutine_threadsafe(rig.sampler.sample(request), rig.loop)
    rig.connect()
    _publish(rig, 2, 2)
    sample = pending.result(60)
    assert [span.version for span in sample.spans] == [2]
    assert _agrees(sample, _replay(rig.models, PROMPT, sample))


def test_a_checksum_that_differs_names_bucket_tensor_and_sampler(rig):
    _publish(rig, 0, 0)
    rows = rig.publisher._rows
    rig.publisher._rows = lambda: [(b, n, c + (n.endswith("norm.weight"))) for b, n, c in rows()]
    try:
        with pytest.raises(
            SamplersLostError, match=r"sampler-0 .*bucket \d+: tensor model\.layers\.0\..*norm"
        ):
            _publish(rig, 1, 1)
    finally:
        del rig.publisher._rows
    _publish(rig, 1, 1)  # nothing was in force; the same group serves on
    sample = rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 20, (), 1.0)))
    assert [span.version for span in sample.spans] == [1]
    assert _agrees(sample, _replay(rig.models, PROMPT, sample))


def test_a_wrong_version_label_would_be_noticed(rig):
    """The check above can fail: the two models' log-probs differ far beyond its tolerance."""
    _publish(rig, 1, 1)
    sample = rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 50, (), 1.0)))
    assert [s.version for s in sample.spans] == [1]
    right = _replay(rig.models, PROMPT, sample)
    wrong = _replay({1: rig.models[0]}, PROMPT, sample)
    assert sample.logprob.tolist() == pytest.approx(right, abs=2e-3)
    assert max(abs(a - b) for a, b in zip(right, wrong, strict=True)) > 0.1


def test_a_stop_string_is_kept_in_the_token_ids(rig):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(rig.sampler._engine.model_config.model)
    request = SamplingRequest(PROMPT, 900, ("</tool>",), 1.0)
    sample = rig.run(rig.sampler.sample(request))
    text = tokenizer.decode(sample.tokens.tolist())
    if sample.finish_reason == "stop":
        assert text.endswith(("</tool>", tokenizer.eos_token))
    else:
        assert "</tool>" not in text


def test_a_sampler_that_leaves_gives_back_what_it_has_and_another_goes_on(rig):
    """The rest of the turn, sampled from those very tokens, agrees with one uncut replay."""
    _publish(rig, 1, 1)
    request = SamplingRequest(PROMPT, 400, (), 1.0, seed=3)

    async def cut():
        asked = asyncio.create_task(rig.sampler.sample(request))
        short = SamplingRequest(PROMPT, 20, (), 1.0, seed=4)
        await rig.sampler.sample(short)  # meanwhile the other one gets on
        await rig.sampler.leave(0.0)
        assert asked.done()
        with pytest.raises(PeerLostError, match="leaving"):
            await rig.sampler.sample(short)
        return asked.result()

    first = rig.run(cut())
    rig.sampler._leaving = False  # now it is another one
    assert first.finish_reason == "abort"
    assert 0 < len(first.tokens) == len(first.logprob) < 400
    rest = SamplingRequest([*PROMPT, *first.tokens.tolist()], 30, (), 1.0)
    whole = join(first, rig.run(rig.sampler.sample(rest)))
    assert _agrees(whole, _replay(rig.models, PROMPT, whole))


def test_a_sampler_that_leaves_lets_turns_end_in_the_time_they_have(rig):
    async def leave():
        request = SamplingRequest(PROMPT, 40, (), 1.0, seed=11)
        asked = asyncio.create_task(rig.sampler.sample(request))
        await asyncio.sleep(0)
        await rig.sampler.leave(60.0)
        return asked.result()

    sample = rig.run(leave())
    rig.sampler._leaving = False
    assert sample.finish_reason in ("length", "stop")
