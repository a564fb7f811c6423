"""The contract between trainer and sampler: what is told before bytes move, and how they move.

Gloo runs for real between two threads. NCCL needs GPUs, so here vLLM's own trainer and worker
engines run over a wire that stands in for its communicator, and nothing else is replaced.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import types

import pytest
import torch
from torch import nn

from cluster.ports import free_port
from wfr.buckets import TensorSpec, buckets, packed_buckets
from wfr.protocols import PeerLostError, TransferGroup

pytestmark = pytest.mark.engine

BUCKET = 4096


class Model(nn.Module):
    """Layers with large and small tensors, a scalar, and an empty one; loads by name."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape):
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.embed = weight(70, 30)
        self.layers = nn.ModuleList(nn.Module() for _ in range(3))
        for layer in self.layers:
            layer.wide = weight(40, 30)
            layer.norm = weight(30)
            layer.scale = weight()
        self.norm = weight(30)
        self.empty = nn.Parameter(torch.empty(0, 5))

    def load_weights(self, pairs):
        own = dict(self.named_parameters())
        with torch.no_grad():
            for name, tensor in pairs:
                own[name].copy_(tensor)


class Wire:
    """NCCL's communicator between one trainer and one worker: both ends of every broadcast."""

    def __init__(self):
        self.sizes = []
        self._sent = queue.Queue()
        self.trainer = types.SimpleNamespace(broadcast=self._send, destroy=lambda: None)
        self.worker = types.SimpleNamespace(broadcast=self._receive, destroy=lambda: None)

    def _send(self, tensor, src):
        assert (tensor.dtype, src) == (torch.uint8, 0)
        self.sizes.append(tensor.numel())
        self._sent.put(tensor.clone())

    def _receive(self, tensor, src):
        tensor.copy_(self._sent.get(timeout=20))


class Client:
    """One worker engine behind vLLM's control calls; `calls` are what it was told, in order."""

    def __init__(self, engine):
        self.engine, self.calls = engine, []
        self.version, self.checksums, self.lost, self.seconds = 0, None, {}, {}

    def init_weight_transfer_engine(self, init_info):
        self.calls.append(("init", dict(init_info)))
        self.engine.init_transfer_engine(self.engine.parse_init_info(init_info))

    def start_weight_update(self):
        self.calls.append(("start",))

    def update_weights(self, update_info):
        self.calls.append(("update", dict(update_info)))
        self.engine.update_weights(update_info)

    def finish_weight_update(self, weight_version=None):
        self.calls.append(("finish", self.version))
        if self.checksums:
            self.engine.update_weights({"checksums": self.checksums()})


def _worker(engine_class, model):
    vllm_config = types.SimpleNamespace(
        model_config=None,
        parallel_config=types.SimpleNamespace(rank=0, world_size=1, data_parallel_index=0),
    )
    return engine_class(None, vllm_config, torch.device("cpu"), model)


@pytest.fixture(params=["gloo", "nccl"])
def pair(request, monkeypatch):
    """A publisher of one model and a worker with another one, connected; and the wire's log."""
    from actors.checked_transfer import CheckedGlooEngine, CheckedNCCLEngine
    from learner.publisher import EngineSource, Publisher

    trained, sampled = Model(1), Model(2)
    wire = Wire()
    if request.param == "nccl":
        _stand_in_for_gpus(monkeypatch, wire)
    else:
        _note_broadcasts(monkeypatch, wire)
    checked = {"gloo": CheckedGlooEngine, "nccl": CheckedNCCLEngine}[request.param]
    client = Client(_worker(checked, sampled))
    engine = types.SimpleNamespace(gathered=lambda parameters: contextlib.nullcontext())
    source = EngineSource(engine, trained)
    publisher = Publisher(source, rank=0, checksums=True)
    group = TransferGroup(request.param, "127.0.0.1", free_port(), 2, BUCKET, 20.0)
    publisher.connect(group, client)
    return types.SimpleNamespace(
        backend=request.param,
        publisher=publisher,
        client=client,
        trained=trained,
        sampled=sampled,
        source=source,
        sizes=wire.sizes,
        group=group,
    )


def _stand_in_for_gpus(monkeypatch, wire):
    from vllm.distributed.weight_transfer import nccl_engine, packed_tensor

    stream = types.SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: wire.trainer)
    monkeypatch.setattr(nccl_engine, "worker_init_process_group", lambda *_: wire.worker)
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda index, count: (stream,) * count)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)


def _note_broadcasts(monkeypatch, wire):
    """Note the sizes of what the trainer sends over the real group."""
    import learner.publisher as module

    class Noting:
        def __init__(self, store, rank, size, timeout):
            self._group = torch.distributed.ProcessGroupGloo(store, rank, size, timeout)

        def broadcast(self, tensors):
            wire.sizes.extend(tensor.numel() for tensor in tensors)
            return self._group.broadcast(tensors)

    monkeypatch.setattr(module, "ProcessGroupGloo", Noting)


def _equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def _specs(source):
    return [
        TensorSpec(m.name, str(m.dtype).removeprefix("torch."), m.shape, m.dtype.itemsize)
        for m in source.metadata()
    ]


def test_the_samplers_weights_become_the_learners(pair):
    assert not _equal(pair.trained, pair.sampled)
    for version in (1, 2):
        with torch.no_grad():
            for parameter in pair.trained.parameters():
                parameter.add_(1)
        assert pair.publisher.publish(version) == {}
        assert _equal(pair.trained, pair.sampled)


def test_samplers_are_told_names_dtypes_and_shapes_in_order_before_bytes_move(pair):
    pair.publisher.publish(7)
    kinds = [call[0] for call in pair.client.calls]
    assert kinds == ["init", "start", "update", "finish"]
    assert pair.client.calls[-1] == ("finish", 7)
    told = pair.client.calls[2][1]
    own = dict(pair.trained.named_parameters())
    assert sorted(told["names"]) == sorted(own)
    assert told["names"] == [name for name, _ in pair.source]
    assert told["shapes"] == [list(own[name].shape) for name in told["names"]]
    assert told["dtype_names"] == ["float32"] * len(own)


def test_the_handshake_says_where_to_meet_and_how_buckets_are_cut(pair):
    (_, info) = pair.client.calls[0]
    assert info["rank_offset"] == 1
    assert info["world_size"] == 2
    if pair.backend == "nccl":
        assert (info["master_address"], info["master_port"]) == ("127.0.0.1", pair.group.port)
        assert (info["packed"], info["packed_buffer_size_bytes"]) == (True, BUCKET)
    else:
        assert (info["host"], info["port"]) == ("127.0.0.1", pair.group.port)
        assert info["bucket_bytes"] == BUCKET


def test_bytes_move_in_the_buckets_that_both_sides_cut(pair):
    pair.publisher.publish(1)
    cut = {"gloo": buckets, "nccl": packed_buckets}[pair.backend](_specs(pair.source), BUCKET)
    assert pair.sizes == [sum(spec.nbytes for spec in bucket) for bucket in cut]
    assert len(pair.sizes) > 3


def test_a_byte_changed_on_the_way_is_named_by_bucket_and_tensor(pair):
    from actors.checked_transfer import ChecksumError

    noted = type(pair.client.engine)._noted
    pair.publisher.publish(1)

    def flipped(engine, pairs):
        return noted(engine, ((n, t + (n == "layers.1.norm")) for n, t in pairs))

    type(pair.client.engine)._noted = flipped
    try:
        with pytest.raises(ChecksumError, match=r"bucket \d+: tensor layers\.1\.norm was sent"):
            pair.publisher.publish(2)
    finally:
        del type(pair.client.engine)._noted
    pair.publisher.publish(3)


def test_a_tensor_unlike_its_metadata_stops_the_update_and_names_it(pair):
    metadata = pair.source.metadata

    pair.source.metadata = lambda: metadata()[::-1]
    with pytest.raises(RuntimeError, match=r"were told to expect .*layers\.2\..*, but got .*embed"):
        pair.publisher.publish(1)


class Counting:
    """A source that notes how far it was streamed, as ranks under ZeRO-3 do together."""

    def __init__(self, source):
        self._source, self.yielded = source, []

    def metadata(self):
        return self._source.metadata()

    def __iter__(self):
        for name, tensor in self._source:
            self.yielded.append(name)
            yield name, tensor


@pytest.mark.parametrize(
    "failing", ["start_weight_update", "update_weights", "finish_weight_update"]
)
def test_whatever_fails_exactly_one_pass_is_made(pair, failing):
    """Other ranks gather in step with rank 0: a pass that it cut short would leave them hanging."""
    counting = Counting(pair.source)
    pair.publisher._source._source = counting

    def refuse(*args):
        raise PeerLostError("gone")

    setattr(pair.client, failing, refuse)
    if (pair.backend, failing) == ("nccl", "update_weights"):
        pair.client.engine.model_update_group = None
    with pytest.raises(PeerLostError):
        pair.publisher.publish(1)
    assert counting.yielded == [meta.name for meta in pair.source.metadata()]


def test_other_ranks_stream_once_and_send_nothing():
    from learner.publisher import EngineSource, Publisher

    counting = Counting(EngineSource(_no_gathering(), Model(1)))
    publisher = Publisher(counting, rank=1)
    group = TransferGroup("gloo", "127.0.0.1", 1, 2, BUCKET, 20.0)
    publisher.connect(group, client := types.SimpleNamespace(lost={}))
    assert publisher.publish(1) == {}
    assert counting.yielded == [meta.name for meta in counting.metadata()]
    assert client.version == 1


def _no_gathering():
    return types.SimpleNamespace(gathered=lambda parameters: contextlib.nullcontext())


def test_no_more_than_one_layer_is_gathered_at_a_time():
    from learner.publisher import EngineSource, WatchedSource

    held, most = [], []

    class Gathering:
        @contextlib.contextmanager
        def gathered(self, parameters):
            held.append(len(parameters))
            most.append(len(held))
            yield
            held.pop()

    source = WatchedSource(EngineSource(Gathering(), Model(1)))
    names = [name for name, _ in source]
    assert names == [meta.name for meta in source.metadata()]
    assert max(most) == 1
    assert len(most) == 4  # three layers, and what is in none


def test_a_trainer_that_breaks_off_releases_the_worker():
    """The worker hears of it at once, not at its time-out."""
    from actors.checked_transfer import CheckedGlooEngine
    from learner.publisher import EngineSource, Publisher

    engine = types.SimpleNamespace(gathered=lambda parameters: contextlib.nullcontext())
    trained = Model(1)

    class Breaking(EngineSource):
        def __iter__(self):
            for number, pair in enumerate(super().__iter__()):
                if number == 3:
                    raise RuntimeError("the trainer stumbles")
                yield pair

    client = Client(_worker(CheckedGlooEngine, Model(2)))
    publisher = Publisher(Breaking(engine, trained), rank=0)
    publisher.connect(TransferGroup("gloo", "127.0.0.1", free_port(), 2, BUCKET, 600.0), client)
    failed = []

    def publish():
        try:
            publisher.publish(1)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    thread.join(15)
    assert failed, "the worker still waits for a bucket that never comes"
