"""In-flight updates through real vLLM: one turn, two versions, and everything about it agrees."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import types

import pytest
import torch

from wfr.config import TinyModelConfig, parse_config
from wfr.protocols import SamplingRequest, TransferGroup

pytestmark = pytest.mark.engine

PROMPT = list(range(20, 50))


class LocalSampler:
    """The samplers' control calls, blocking, onto a sampler in another thread's event loop."""

    version = 0

    def __init__(self, sampler, loop):
        self._sampler, self._loop = sampler, loop

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def init_weight_transfer_engine(self, init_info):
        self._run(self._sampler.init_transfer(init_info))

    def start_weight_update(self):
        self._run(self._sampler.begin_update())

    def update_weights(self, update_info):
        self._run(self._sampler.receive_update(update_info))

    def finish_weight_update(self, weight_version=None):
        self._run(self._sampler.finish_update(self.version))


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
    from learner.publisher import Publisher

    path, models = director
    config = parse_config({"model": {"max_length": 1024}, "sampler": {"max_num_seqs": 16}})
    sampler = Sampler(config, str(path), "cpu")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(120)

    run(_async(sampler.warm_up)(PROMPT))
    trained = types.SimpleNamespace(gathered=lambda parameters: contextlib.nullcontext())
    live = _copy(models[0])
    publisher = Publisher(trained, live, rank=0)
    group = TransferGroup("gloo", "127.0.0.1", free_port(), 2, 1 << 18, 30.0)
    publisher.connect(group, LocalSampler(sampler, loop))
    yield types.SimpleNamespace(
        sampler=sampler, run=run, publisher=publisher, live=live, models=models, loop=loop
    )
    run(_async(sampler.shutdown)())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


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
def _replay(models, prompt, sample):
    """Log-probs of the sampled tokens, step by step, each under the weights its span names.

    The KV cache grows under the weights in force at each step: what `keep_kv` means.
    """
    versions = [s.version for s in sample.spans for _ in range(s.start, s.end)]
    cache, feed, logprobs = None, torch.tensor([prompt]), []
    for token, version in zip(sample.tokens.tolist(), versions, strict=True):
        out = models[version](input_ids=feed, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logprobs.append(torch.log_softmax(out.logits[0, -1].float(), -1)[token].item())
        feed = torch.tensor([[token]])
    return logprobs


def test_one_turn_holds_two_versions_and_its_spans_and_logprobs_agree(rig):
    _publish(rig, 0, 0)
    request = SamplingRequest(PROMPT, 600, (), 1.0)
    pending = asyncio.run_coroutine_threadsafe(rig.sampler.sample(request), rig.loop)
    _publish(rig, 1, 1)
    _publish(rig, 2, 2)
    sample = pending.result(120)

    assert len(sample.tokens) == 600
    assert [s.version for s in sample.spans] == sorted({s.version for s in sample.spans})
    assert len(sample.spans) >= 2, sample.spans
    assert sample.spans[0].start == 0
    assert sample.spans[-1].end == 600
    assert all(a.end == b.start for a, b in zip(sample.spans, sample.spans[1:], strict=False))
    expected = _replay(rig.models, PROMPT, sample)
    assert sample.logprob.tolist() == pytest.approx(expected, abs=2e-3)


def test_a_wrong_version_label_would_be_noticed(rig):
    """The check above can fail: the two models' log-probs differ far beyond its tolerance."""
    _publish(rig, 1, 1)
    sample = rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 50, (), 1.0)))
    assert [s.version for s in sample.spans] == [1]
    right = _replay(rig.models, PROMPT, sample)
    wrong = _replay({1: rig.models[0]}, PROMPT, sample)
    assert sample.logprob.tolist() == pytest.approx(right, abs=2e-3)
    assert max(abs(a - b) for a, b in zip(right, wrong, strict=True)) > 0.1


def test_a_new_request_never_reuses_the_prefix_cache_of_older_weights(rig):
    prompt = [20 + i % 700 for i in range(600)]  # several whole cache blocks
    for version in (1, 2):
        _publish(rig, version, version)
        sample = rig.run(rig.sampler.sample(SamplingRequest(prompt, 8, (), 1.0)))
        assert sample.logprob.tolist() == pytest.approx(
            _replay(rig.models, prompt, sample), abs=2e-3
        )


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
