"""Recent weights on CPU: log-probabilities under an older version can be computed exactly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MIB = 1 << 20


class Snapshots:
    """Copies of one rank's trainable weights by version; the least recently used go first.

    Every rank holds its own part of the same versions, because all use them in the same order.
    """

    def __init__(self, limit: int) -> None:
        """Hold at most `limit` bytes."""
        self._limit = limit
        self._copies: OrderedDict[int, list[Tensor]] = OrderedDict()

    @property
    def versions(self) -> frozenset[int]:
        """The versions at hand."""
        return frozenset(self._copies)

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(map(_size, self._copies.values()))

    def keep(self, version: int, weights: Iterable[Tensor]) -> None:
        """Copy `weights` as those of `version`.

        Raises:
            ValueError: a single copy exceeds the limit.
        """
        copies = [weight.detach().to("cpu", copy=True) for weight in weights]
        if _size(copies) > self._limit:
            raise ValueError(
                f"learner.snapshots.mib={self._limit / MIB:g} is less than one copy of the "
                f"trainable weights of a rank, {_size(copies) / MIB:.1f} MiB: raise it, or set it "
                "to 0 to keep none"
            )
        self._copies[version] = copies
        self._copies.move_to_end(version)
        while self.size > self._limit:
            self._copies.popitem(last=False)

    def of(self, version: int) -> Sequence[Tensor]:
        """The weights of `version`, which has to be at hand."""
        self._copies.move_to_end(version)
        return self._copies[version]


def _size(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
