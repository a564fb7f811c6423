"""The publisher: new weights into every sampler, through vLLM's weight-transfer API.

On GPU vLLM's own NCCL trainer engine sends; on CPU the Gloo engine below does, behind the same
interface (`actors.gloo_transfer` is its receiving end). A version is published when every live
sampler has acknowledged it. When samplers come or go, `connect` rebuilds the transfer group.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import nn
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    layerwise_groups,
)

from learner.director_weights import director_weights
from wfr.buckets import STORE_PREFIX, TensorSpec, buckets
from wfr.protocols import TransferGroup

if TYPE_CHECKING:
    from learner.engine import Engine


class SamplersClient(VLLMWeightSyncClient, Protocol):
    """vLLM's four control calls, fanned out to all samplers, and the version they agree on."""

    version: int
    """What `finish_weight_update` labels the received weights with."""


class EngineSource(WeightSource):
    """The director's weights under their checkpoint names, made whole layer by layer.

    Under ZeRO-3 iterating is a collective that all ranks run in the same order; no rank ever holds
    a second full copy. Adapters are merged in, into a copy of one matrix at a time.
    """

    def __init__(self, engine: Engine, model: nn.Module) -> None:
        """Stream `model`, the causal language model inside what `engine` wraps."""
        self._engine = engine
        self._weights = director_weights(model)

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and whole shapes, without a transfer."""
        return [
            ParamMeta(name, self._weights[name].dtype, self._weights[name].shape)
            for names in layerwise_groups(list(self._weights))
            for name in names
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each whole tensor; it is valid until the next one is asked for."""
        for names in layerwise_groups(list(self._weights)):
            parts = itertools.chain.from_iterable(self._weights[name].parameters for name in names)
            with self._engine.gathered(list(parts)):
                for name in names:
                    yield name, self._weights[name].whole()


@dataclasses.dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """How the trainer opens the Gloo group; only `rank` 0 sends."""

    backend: ClassVar[str] = "gloo"

    group: TransferGroup


class GlooTrainerEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """Sends checkpoint-format weights as broadcasts of flat byte buckets."""

    init_info_cls = GlooTrainerInitInfo

    _group: Any = None  # torch's stubs do not know the methods of ProcessGroupGloo
    _bucket_bytes = 0

    @classmethod
    def trainer_init(
        cls,
        init_info: GlooTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        """Open the group together with the samplers' workers."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        engine._bucket_bytes = init_info.group.bucket_bytes
        if engine.is_sender:
            engine._open(init_info.group)
        return engine

    def send_weights(self) -> None:
        """Run one update: all ranks stream the source, rank 0 broadcasts and drives the client."""
        assert self.source is not None
        specs = [_spec(meta) for meta in self.source.metadata()]
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        self.client.start_weight_update()
        received = _in_background(self.client.update_weights, _update_info(specs))
        self._broadcast(specs, received)
        received.result()
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None

    def _open(self, group: TransferGroup) -> None:
        info = {
            "host": group.host,
            "port": group.port,
            "rank_offset": 1,
            "world_size": group.world_size,
            "bucket_bytes": group.bucket_bytes,
            "timeout_s": group.timeout_s,
        }
        joined = _in_background(self.client.init_weight_transfer_engine, info)
        timeout = datetime.timedelta(seconds=group.timeout_s)
        store = TCPStore(group.host, group.port, group.world_size, True, timeout)
        shared = PrefixStore(STORE_PREFIX, store)
        self._group = ProcessGroupGloo(shared, 0, group.world_size, timeout)
        joined.result()

    def _broadcast(self, specs: list[TensorSpec], received: Future[None]) -> None:
        assert self._group is not None
        assert self.source is not None
        tensors = iter(self.source)
        for bucket in buckets(specs, self._bucket_bytes):
            flat = torch.cat([_bytes(next(tensors)[1]) for _ in bucket])
            if received.done():
                received.result()  # a sampler refused: say so instead of waiting for its time-out
            self._group.broadcast([flat]).wait()


class Publisher:
    """Publishes versions from one learner rank; every rank holds one, rank 0 sends."""

    def __init__(self, engine: Engine, model: nn.Module, rank: int) -> None:
        """Publish the parameters of `model`, which `engine` trains."""
        self._source = EngineSource(engine, model)
        self._rank = rank
        self._client: SamplersClient | None = None
        self._transfer: TrainerWeightTransferEngine[Any] | None = None

    def connect(self, group: TransferGroup, client: SamplersClient) -> None:
        """(Re)build the transfer group with the samplers behind `client`."""
        if self._transfer is not None:
            self._transfer.shutdown()
        self._client = client
        self._transfer = WeightTransferTrainerFactory.trainer_init(
            _init_info(group, self._rank), client=client, source=self._source
        )

    def publish(self, version: int) -> None:
        """Send the current weights as `version`; returns when every sampler has them in force."""
        assert self._transfer is not None, "connect() comes before publish()"
        assert self._client is not None
        self._client.version = version
        self._transfer.send_weights()


def _init_info(group: TransferGroup, rank: int) -> TrainerInitInfo:
    if group.backend == "gloo":
        return GlooTrainerInitInfo(group, rank=rank)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return NCCLTrainerInitInfo(
        group.host,
        group.port,
        group.world_size,
        packed_buffer_size_bytes=group.bucket_bytes,
        rank=rank,
    )


def _spec(meta: ParamMeta) -> TensorSpec:
    return TensorSpec(
        meta.name, str(meta.dtype).removeprefix("torch."), meta.shape, meta.dtype.itemsize
    )


def _update_info(specs: list[TensorSpec]) -> dict[str, Any]:
    return {
        "names": [spec.name for spec in specs],
        "dtype_names": [spec.dtype for spec in specs],
        "shapes": [list(spec.shape) for spec in specs],
    }


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _in_background(call: Any, argument: Any) -> Future[None]:
    """Run a client call beside the broadcast that it has to meet; never joined on failure."""
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(call, argument)
    executor.shutdown(wait=False)
    return future


if "gloo" not in WeightTransferTrainerFactory._registry:
    WeightTransferTrainerFactory.register_engine("gloo", GlooTrainerEngine)
