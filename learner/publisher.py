"""The publisher: new weights into every sampler, through vLLM's weight-transfer API.

On GPU vLLM's own NCCL trainer engine sends; on CPU the Gloo engine below does, behind the same
interface (`actors.gloo_transfer` is its receiving end). A version is published when every live
sampler has acknowledged it. When samplers come or go, `connect` rebuilds the transfer group.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from wfr.buckets import STORE_PREFIX, TensorSpec, buckets, packed_buckets
from wfr.protocols import TransferGroup

if TYPE_CHECKING:
    from learner.engine import Engine


class SamplersClient(VLLMWeightSyncClient, Protocol):
    """vLLM's four control calls, fanned out to all samplers, and the version they agree on.

    `finish_weight_update` has two phases: every sampler installs what it has received, and only
    when all have done so, every one puts it in force. Other methods raise SamplersLostError.
    """

    version: int
    """What `finish_weight_update` labels the received weights with."""
    checksums: Callable[[], Sequence[tuple[int, str, int]]] | None
    """(bucket, tensor, checksum) of all that was sent, to compare in phase one; none: do not."""
    lost: Mapping[str, str]
    """Samplers that did not answer in phase two, and why; the version is in force in the others."""
    seconds: Mapping[str, float]
    """What each phase of the last update took."""


class EngineSource(WeightSource):
    """The director's weights under their checkpoint names, made whole layer by layer.

    Under ZeRO-3 iterating is a collective that all ranks run in the same order; no rank ever holds
    a second full copy. Adapters are merged in, into a copy of one matrix at a time.
    What was yielded stays as it is for as long as somebody keeps it and no optimizer step is made.
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
        """Yield each whole tensor."""
        for names in layerwise_groups(list(self._weights)):
            parts = itertools.chain.from_iterable(self._weights[name].parameters for name in names)
            with self._engine.gathered(list(parts)):
                for name in names:
                    yield name, self._weights[name].whole()


class WatchedSource(WeightSource):
    """A source that is always streamed to its end, and that can note checksums on the way."""

    def __init__(self, source: WeightSource, *, checksums: bool = False) -> None:
        """Watch `source`; with `checksums`, note one of every tensor."""
        self._source = source
        self._noting = checksums
        self._stream: Iterator[tuple[str, torch.Tensor]] | None = None
        self.noted: dict[str, int] = {}

    def metadata(self) -> list[ParamMeta]:
        """That of the source."""
        return self._source.metadata()

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Begin a pass; raises RuntimeError where tensor and metadata differ."""
        self._stream = self._checked()
        return self._stream

    @contextlib.contextmanager
    def one_pass(self) -> Iterator[None]:
        """Whatever fails inside, exactly one pass is made: other ranks gather in step with it."""
        self._stream = None
        try:
            yield
        finally:
            for _ in self._stream or self:
                pass

    def _checked(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.noted = {}
        for meta, (name, tensor) in zip(self.metadata(), self._source, strict=True):
            found = ParamMeta(name, tensor.dtype, tuple(tensor.shape))
            if found != meta:
                raise RuntimeError(f"the samplers were told to expect {meta}, but got {found}")
            if self._noting:
                self.noted[name] = zlib.crc32(_bytes(tensor.cpu()).numpy().tobytes())
            yield name, tensor


class _BrokenError(RuntimeError):
    """A connection to a sampler broke, or nothing moved on it for too long."""


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
    _memory: tuple[torch.Tensor, ...] = ()
    """Where buckets are put together; fresh memory costs about as much as sending it does."""

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
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        if self._group is None:
            raise RuntimeError("the transfer group was closed by a failure")
        specs = [_spec(meta) for meta in self.source.metadata()]
        self.client.start_weight_update()
        received = _in_background(self.client.update_weights, _update_info(specs))
        try:
            self._broadcast(specs, received)
        except BaseException as error:
            self.shutdown()  # so that no sampler waits for the rest
            if isinstance(error, _BrokenError):
                received.result()  # who is to blame is known there
            raise
        received.result()
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None
        self._memory = ()

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
        self._memory = tuple(torch.empty(group.bucket_bytes, dtype=torch.uint8) for _ in range(2))
        joined.result()

    def _broadcast(self, specs: list[TensorSpec], received: Future[None]) -> None:
        """Send bucket after bucket, the next one gathered meanwhile: two at most are held."""
        assert self.source is not None
        tensors = (tensor for _, tensor in self.source)
        sending: list[Any] = []
        try:
            for number, bucket in enumerate(buckets(specs, self._bucket_bytes)):
                flat = _flat([next(tensors) for _ in bucket], self._memory[number % 2])
                _wait(sending)
                if received.done():
                    received.result()  # a sampler refused: do not wait for its time-out
                sending = [self._group.broadcast([flat])]
            _wait(sending)
        finally:
            sending.clear()  # an error's traceback must not keep the connections open


class Publisher:
    """Publishes versions from one learner rank; every rank holds one, rank 0 sends."""

    def __init__(self, source: WeightSource, rank: int, *, checksums: bool = False) -> None:
        """Publish what `source` streams; with `checksums`, samplers compare what they receive."""
        self._source = WatchedSource(source, checksums=checksums and rank == 0)
        self._rank = rank
        self._checksums = checksums
        self._client: SamplersClient | None = None
        self._group: TransferGroup | None = None
        self._transfer: TrainerWeightTransferEngine[Any] | None = None

    def connect(self, group: TransferGroup, client: SamplersClient) -> None:
        """(Re)build the transfer group with the samplers behind `client`."""
        if self._transfer is not None:
            self._transfer.shutdown()
            self._transfer = None
        self._client = client
        self._group = group
        self._transfer = WeightTransferTrainerFactory.trainer_init(
            _init_info(group, self._rank),
            client=client,
            source=self._source,
        )

    def publish(self, version: int) -> Mapping[str, str]:
        """Send the current weights as `version`; returns when every sampler has them in force.

        Returns:
            Samplers that were lost when all others had the weights already, and why.

        Raises:
            SamplersLostError: nothing is in force anywhere, because of these.
            RuntimeError: the same, because of whom is not known.
        """
        assert self._client is not None
        with self._source.one_pass():
            if self._transfer is None:
                raise RuntimeError("there is no transfer group")
            self._client.version = version
            self._client.checksums = self._rows if self._checksums else None
            self._transfer.send_weights()
        return dict(self._client.lost)

    @property
    def seconds(self) -> Mapping[str, float]:
        """What each phase of the last publication took; rank 0 knows it."""
        return dict(self._client.seconds) if self._client is not None else {}

    def _rows(self) -> list[tuple[int, str, int]]:
        """Bucket, tensor and checksum of all that was sent."""
        assert self._group is not None
        specs = [_spec(meta) for meta in self._source.metadata()]
        cut = packed_buckets if self._group.backend == "nccl" else buckets
        return [
            (number, spec.name, self._source.noted[spec.name])
            for number, bucket in enumerate(cut(specs, self._group.bucket_bytes))
            for spec in bucket
        ]


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


def _flat(tensors: list[torch.Tensor], memory: torch.Tensor) -> torch.Tensor:
    """The bytes of a bucket, put together in `memory`; those of a single tensor where they are."""
    parts = [_bytes(tensor) for tensor in tensors]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, out=memory[: sum(map(len, parts))])


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _wait(sending: list[Any]) -> None:
    for work in sending:
        try:
            work.wait()
        except RuntimeError as error:
            raise _BrokenError(str(error)) from None


def _in_background(call: Any, argument: Any) -> Future[None]:
    """Run a client call beside the broadcast that it has to meet; never joined on failure."""
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(call, argument)
    executor.shutdown(wait=False)
    return future


if "gloo" not in WeightTransferTrainerFactory._registry:
    WeightTransferTrainerFactory.register_engine("gloo", GlooTrainerEngine)
