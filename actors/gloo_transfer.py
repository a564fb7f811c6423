"""Weights over Gloo: the receiving end, inside the vLLM worker process.

vLLM ships NCCL engines only. This one makes the same protocol work without a GPU: the trainer is
rank 0 of a Gloo group, every vLLM worker one further rank, and parameters travel as broadcasts of
flat byte buckets (`learner.publisher` is the sending end). It is registered with vLLM's factory
through the `vllm.general_plugins` entry point, so that vLLM's own worker processes know it.
"""

from __future__ import annotations

import dataclasses
import datetime
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from wfr.buckets import STORE_PREFIX, TensorSpec, buckets


def register() -> None:
    """Entry point `vllm.general_plugins`: make our engines known to vLLM."""
    engines = {
        "gloo": (__name__, "GlooTransferEngine"),
        "checked_gloo": ("actors.checked_transfer", "CheckedGlooEngine"),
        "checked_nccl": ("actors.checked_transfer", "CheckedNCCLEngine"),
    }
    for backend, (module, name) in engines.items():
        if backend not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(backend, module, name)


@dataclasses.dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where to meet the trainer; `rank_offset` is the rank of this engine's first worker."""

    host: str
    port: int
    rank_offset: int
    world_size: int
    bucket_bytes: int
    timeout_s: float


@dataclasses.dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The tensors of one update, in the order in which they travel."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def specs(self) -> list[TensorSpec]:
        """The same as records."""
        rows = zip(self.names, self.dtype_names, self.shapes, strict=True)
        return [
            TensorSpec(name, dtype, tuple(shape), getattr(torch, dtype).itemsize)
            for name, dtype, shape in rows
        ]


_KEPT_BYTES = 64 * 2**20
_AT_ONCE = 3
"""Buckets: one arrives, one is loaded, and the last one may be kept for its layer."""


class Landing:
    """Memory that buckets arrive in, used again when nobody holds a tensor in it any more.

    Fresh memory costs about as much as the transfer itself, a page fault for each 4 KiB. When a
    bucket's last tensor is gone is not known beforehand: vLLM keeps them until their layer is
    complete. So each bucket gets an array of its own, whose end gives the memory back.

    During an update all that buckets of the largest size seen need is kept; what is left of it
    between updates is bounded.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most `limit_bytes` of unused memory between updates."""
        self._limit_bytes = limit_bytes
        self._largest = 0
        self._free: list[np.ndarray] = []

    def tensor(self, nbytes: int) -> torch.Tensor:
        """Uninitialised uint8 [nbytes]."""
        self._largest = max(self._largest, nbytes)
        fitting = [memory for memory in self._free if memory.nbytes >= nbytes]
        memory = min(fitting, key=lambda m: m.nbytes, default=None)
        if memory is None:
            memory = np.empty(nbytes, np.uint8)
        else:
            self._free = [other for other in self._free if other is not memory]
        used = memory[:nbytes]
        weakref.finalize(used, self._give_back, memory).atexit = False
        return torch.from_numpy(used)  # keeps `used` for as long as any view of it lives

    def _give_back(self, memory: np.ndarray) -> None:
        self._free.append(memory)
        self._shrink(max(self._limit_bytes, _AT_ONCE * self._largest))

    def rest(self) -> None:
        """An update has ended: give back what is above the bound."""
        self._largest = 0
        self._shrink(self._limit_bytes)

    def _shrink(self, limit_bytes: int) -> None:
        while sum(memory.nbytes for memory in self._free) > limit_bytes:
            self._free.pop(0)


class GlooTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives checkpoint-format weights over Gloo and reloads the model layer by layer."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without a group; the trainer's handshake opens it."""
        super().__init__(*args, **kwargs)
        self._reloading = False
        self._landing = Landing(_KEPT_BYTES)
        self._group: Any = None  # torch's stubs do not know the methods of ProcessGroupGloo
        self._bucket_bytes = 0

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join (or, after a change of members, re-join) the trainer's group."""
        self.shutdown()
        self._bucket_bytes = init_info.bucket_bytes
        timeout = datetime.timedelta(seconds=init_info.timeout_s)
        world_size = init_info.world_size
        store = TCPStore(init_info.host, init_info.port, world_size, False, timeout)
        rank = init_info.rank_offset + self.parallel_config.rank
        shared = PrefixStore(STORE_PREFIX, store)
        self._group = ProcessGroupGloo(shared, rank, world_size, timeout)

    def start_weight_update(self) -> None:
        """Give the parameters their loaders back: vLLM repacks weights on CPU after loading."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        if self._reloading:  # the last update broke off: drop what it left in half-loaded layers
            self.finish_weight_update()
        initialize_layerwise_reload(self.model)
        self._reloading = True

    def finish_weight_update(self) -> None:
        """Repack the freshly loaded layers."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)  # type: ignore[no-untyped-call]
        # A head tied to the embedding receives no tensor of its own, so vLLM leaves its repacked
        # copy as it was: without this the new embedding meets the old head.
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)
        self._landing.rest()
        self._reloading = False

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive all tensors of one update; Gloo is synchronous, so nothing is left to await."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Load bucket after bucket, each while the next one is on its way: two at most are held."""
        if self._group is None:
            raise RuntimeError("the Gloo transfer group was not opened before an update")
        model: Any = self.model  # every vLLM model can load_weights, but nn.Module cannot
        cut = list(buckets(update_info.specs(), self._bucket_bytes))
        coming = [self._receive(bucket) for bucket in cut[:1]]
        for number, bucket in enumerate(cut):
            flat, arrival = coming.pop()
            arrival.wait()
            coming = [self._receive(following) for following in cut[number + 1 : number + 2]]
            model.load_weights(self._tensors(bucket, flat))

    def _receive(self, bucket: list[TensorSpec]) -> tuple[torch.Tensor, Any]:
        """Where a bucket is going to be, and the work that puts it there."""
        flat = self._landing.tensor(sum(spec.nbytes for spec in bucket))
        return flat, self._group.broadcast([flat])

    def _tensors(
        self, bucket: list[TensorSpec], flat: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor]]:
        offset = 0
        for spec in bucket:
            part = flat[offset : offset + spec.nbytes]
            typed: torch.Tensor = part.view(dtype=getattr(torch, spec.dtype))
            yield spec.name, typed.view(spec.shape).to(self.device)
            offset += spec.nbytes

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None
