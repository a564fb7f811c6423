"""How a stream of tensors is cut into buckets: the same cut on the sending and receiving side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

STORE_PREFIX = "wfr-weights"  # both ends of a transfer group meet under this name


@dataclasses.dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype name (as in torch), shape and bytes per element of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.itemsize


def buckets(specs: Iterable[TensorSpec], limit_bytes: int) -> Iterator[list[TensorSpec]]:
    """Cut into runs of at most `limit_bytes`; a tensor larger than that travels alone.

    A bucket holds one dtype size only, so that every tensor in it starts aligned.
    """
    bucket: list[TensorSpec] = []
    size = 0
    for spec in specs:
        misfit = size + spec.nbytes > limit_bytes or (
            bucket and bucket[0].itemsize != spec.itemsize
        )
        if bucket and misfit:
            yield bucket
            bucket, size = [], 0
        bucket.append(spec)
        size += spec.nbytes
    if bucket:
        yield bucket


def packed_buckets(specs: Iterable[TensorSpec], limit_bytes: int) -> Iterator[list[TensorSpec]]:
    """Cut as vLLM's NCCL engine does: a bucket is sent as soon as it is larger than the limit."""
    bucket: list[TensorSpec] = []
    size = 0
    for spec in specs:
        bucket.append(spec)
        size += spec.nbytes
        if size > limit_bytes:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
