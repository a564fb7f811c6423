"""The weight source under ZeRO-3, and the memory that buckets arrive in."""

from __future__ import annotations

import contextlib
import multiprocessing

import pytest

from cluster.ports import free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def _stream(rank, port, out):
    """One rank: collect the whole stream, uncopied, and compare it with the weights."""
    import torch

    from learner.engine import Engine
    from learner.publisher import EngineSource, WatchedSource
    from learner.tiny import build_model
    from wfr.config import TinyModelConfig
    from wfr.learner_config import LearnerConfig

    torch.set_num_threads(1)
    shape = TinyModelConfig(layers=2, hidden=64, intermediate=128, heads=2)
    model = build_model(shape, 300, 7)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = Engine(
        LearnerConfig(ranks=2, zero_stage=3),
        model,
        rank=rank,
        ranks=2,
        init_method=f"tcp://127.0.0.1:{port}",
    )
    source = WatchedSource(EngineSource(engine, model))
    kept = dict(iter(source))  # all gathered layers are partitioned again by now
    own = sum(p.numel() for p in model.parameters())
    same = {name: torch.equal(kept[name], expected[name]) for name in expected}
    metas = [(meta.name, tuple(kept[meta.name].shape)) for meta in source.metadata()]
    with contextlib.suppress(KeyError), source.one_pass():
        stream = iter(source)
        next(stream)
        if rank == 0:
            raise KeyError  # the other rank goes on
        for _ in stream:
            pass
    out.put((rank, same, metas, own))
    engine.close()


def test_what_was_yielded_stays_whole_and_a_rank_that_fails_stays_in_step():
    """Buckets send tensors from where they lie, after their layer's gathering has ended."""
    context = multiprocessing.get_context("spawn")
    out, port = context.Queue(), free_port()
    ranks = [context.Process(target=_stream, args=(r, port, out)) for r in range(2)]
    for rank in ranks:
        rank.start()
    results = [out.get(timeout=240) for _ in ranks]
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    for _, same, metas, own in results:
        assert all(same.values()), same
        assert [name for name, _ in metas] == list(dict(metas))
        assert own == 0  # nothing is whole between two passes


def test_memory_is_used_again_when_no_tensor_in_it_is_left():
    from actors.gloo_transfer import Landing

    landing = Landing(1000)
    first = landing.tensor(400)
    where = first.data_ptr()
    view = first[100:200].view(10, 10)
    del first
    second = landing.tensor(400)
    assert second.data_ptr() != where  # the view keeps it
    view.fill_(7)
    second.fill_(1)
    assert int(view.sum()) == 700
    del view
    assert landing.tensor(300).data_ptr() == where


def test_unused_memory_is_bounded():
    from actors.gloo_transfer import Landing

    landing = Landing(1000)
    held = [landing.tensor(400) for _ in range(5)]
    held.clear()
    assert sum(memory.nbytes for memory in landing._free) == 1200  # for three of them
    landing.rest()
    assert sum(memory.nbytes for memory in landing._free) == 800
    assert landing.tensor(0).numel() == 0
