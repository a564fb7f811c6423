"""Weights over NCCL between two GPUs: what `tests/test_publisher.py` can only stand in for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import types

import pytest

from wfr.config import TinyModelConfig, parse_config
from wfr.protocols import SamplingRequest, TransferGroup

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        torch.cuda.device_count() < 2,
        reason="needs two GPUs: NCCL refuses trainer and sampler on the same one",
    ),
]

PROMPT = list(range(20, 50))


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """A sampler on the second GPU and a publisher of another model on the first."""
    from actors.sampler import Sampler
    from cluster.ports import free_port
    from cluster.two_phases import SamplersClient
    from learner.publisher import EngineSource, Publisher
    from learner.tiny import build_model, build_tokenizer

    path = tmp_path_factory.mktemp("director")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path)
    shape = TinyModelConfig(layers=2, hidden=64, intermediate=128, heads=2)
    build_model(shape, len(tokenizer), 1).save_pretrained(path)
    trained = build_model(shape, len(tokenizer), 2).to("cuda:0", torch.bfloat16).eval()
    config = parse_config(
        {"model": {"max_length": 512, "dtype": "bfloat16"}, "weights": {"checksums": True}}
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "1" if visible is None else visible.split(",")[1]
    try:
        sampler = Sampler(config, str(path), "cuda")
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(300)

    class Client(SamplersClient):
        def call(self, method, arguments):
            (given,) = arguments.values()
            work = getattr(sampler, method)(*given)
            return {"sampler": asyncio.run_coroutine_threadsafe(work, loop).exception(300)}

    run(sampler.warm_up(PROMPT))
    whole = types.SimpleNamespace(gathered=lambda parameters: contextlib.nullcontext())
    publisher = Publisher(EngineSource(whole, trained), rank=0, checksums=True)
    group = TransferGroup("nccl", "127.0.0.1", free_port(), 2, 1 << 18, 60.0)
    publisher.connect(group, Client(["sampler"], 1))
    yield types.SimpleNamespace(sampler=sampler, publisher=publisher, trained=trained, run=run)
    sampler.shutdown()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_published_weights_are_what_is_sampled_from(rig):
    assert rig.publisher.publish(1) == {}
    sample = rig.run(rig.sampler.sample(SamplingRequest(PROMPT, 40, (), 1.0)))
    assert [span.version for span in sample.spans] == [1]
    tokens = torch.tensor([[*PROMPT, *sample.tokens.tolist()]], device="cuda:0")
    with torch.no_grad():
        logits = rig.trained(tokens).logits[0, len(PROMPT) - 1 : -1].float()
    logp = torch.log_softmax(logits, -1).gather(1, tokens[0, len(PROMPT) :, None])[:, 0]
    assert sample.logprob.tolist() == pytest.approx(logp.tolist(), abs=0.1)


def test_updates_arrive_while_a_turn_is_sampled(rig):
    request = SamplingRequest(PROMPT, 400, (), 1.0)
    pending = [rig.sampler.sample(request) for _ in range(8)]

    async def all_of_them():
        return await asyncio.gather(*pending)

    results = []
    thread = threading.Thread(target=lambda: results.extend(rig.run(all_of_them())))
    thread.start()
    for version in (2, 3):
        rig.publisher.publish(version)
    thread.join(300)
    for sample in results:
        versions = [span.version for span in sample.spans]
        assert versions == sorted(set(versions))
        assert set(versions) <= {1, 2, 3}
