"""Weight transfer with checksums, for debugging: what arrived is compared with what was sent.

The receiving engines of `weights.checksums: true`. They receive as ever and remember a checksum of
every tensor; the trainer's own, which come as a last message before the weights are installed, have
to be the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

from actors.gloo_transfer import GlooTransferEngine


class ChecksumError(ValueError):
    """A tensor did not arrive as it was sent."""


class _Checked:
    """Mixed into an engine that loads through `self.model.load_weights`."""

    model: Any
    _received: dict[str, int]

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive tensors, or compare those received with `update_info["checksums"]`.

        Raises:
            ChecksumError: naming the bucket and the tensor.
        """
        if "checksums" in update_info:
            self._compare(update_info["checksums"])
            return
        self._received = {}
        load: Callable[[Iterable[tuple[str, torch.Tensor]]], Any] = self.model.load_weights
        self.model.load_weights = lambda pairs: load(self._noted(pairs))
        try:
            super().update_weights(update_info)  # type: ignore[misc]
        finally:
            del self.model.load_weights  # the class's own again

    def _noted(
        self, pairs: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in pairs:
            self._received[name] = checksum(tensor)
            yield name, tensor

    def _compare(self, sent: Sequence[tuple[int, str, int]]) -> None:
        for bucket, name, expected in sent:
            found = self._received.get(name)
            if found != expected:
                raise ChecksumError(
                    f"bucket {bucket}: tensor {name} was sent with checksum {expected}, but "
                    f"{'never arrived' if found is None else f'arrived with {found}'}"
                )


class CheckedGlooEngine(_Checked, GlooTransferEngine):
    """Gloo with checksums."""


class CheckedNCCLEngine(_Checked, NCCLWeightTransferEngine):
    """vLLM's own NCCL engine with checksums."""


def checksum(tensor: torch.Tensor) -> int:
    """CRC-32 of the bytes of a tensor."""
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return zlib.crc32(data.numpy().tobytes())
