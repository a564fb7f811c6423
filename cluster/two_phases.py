"""Updating all samplers in two phases: whatever fails, nobody samples from half of a version.

What vLLM's trainer engines see of the samplers: four blocking calls. `cluster.weights` carries them
to processes of Ray.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wfr.protocols import PeerLostError, SamplersLostError

Outcomes = Mapping[str, BaseException | None]
"""For each sampler what a call of it raised."""


class UnfinishedError(RuntimeError):
    """A call was not waited for, because another had failed."""


class SamplersClient(abc.ABC):
    """vLLM's weight-sync calls, fanned out to all samplers, with a commit in two phases.

    Phase one ends when every sampler has received, checked and installed the new weights; all of
    them hold still. A failure up to here leaves nothing in force and raises SamplersLostError: the
    survivors hold still, whatever half of the weights they have, until an update succeeds. In phase
    two every sampler labels the weights with the version and goes on. One that fails now is lost
    alone: the others have whole weights, so it is noted in `lost` and not raised.
    """

    def __init__(self, names: Sequence[str], workers_each: int) -> None:
        """Drive the samplers `names`, each of which has `workers_each` ranks in the group."""
        self._names = tuple(names)
        self._workers_each = workers_each
        self.version = 0
        self.checksums: Callable[[], Sequence[tuple[int, str, int]]] | None = None
        self.lost: Mapping[str, str] = {}
        self.seconds: Mapping[str, float] = {}
        """What each phase of the last update took, in the slowest sampler."""

    @abc.abstractmethod
    def call(self, method: str, arguments: Mapping[str, tuple[Any, ...]]) -> Outcomes:
        """Call `method` of every sampler at once; PeerLostError is one that did not answer."""

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Let every sampler join the group, each at its own ranks."""
        first = init_info["rank_offset"]
        offsets = {
            name: ({**init_info, "rank_offset": first + index * self._workers_each},)
            for index, name in enumerate(self._names)
        }
        self._all("init_transfer", offsets)

    def start_weight_update(self) -> None:
        """Hold generation still everywhere."""
        self.lost, self.seconds = {}, {}
        self._all("begin_update")

    def update_weights(self, update_info: Any) -> None:
        """Receive everywhere; runs beside the broadcast that it has to meet."""
        self._all("receive_update", self._each(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Install everywhere, then put in force everywhere as `version`."""
        version = self.version if weight_version is None else int(weight_version)
        self._all("prepare_update", self._each(self.checksums and self.checksums()))
        outcomes = self._timed("commit_update", self._each(version))
        self.lost = {name: _why(e, "commit_update") for name, e in outcomes.items() if e}
        if len(self.lost) == len(self._names):
            raise SamplersLostError(self.lost)

    def _each(self, *arguments: Any) -> dict[str, tuple[Any, ...]]:
        return dict.fromkeys(self._names, arguments)

    def _all(self, method: str, arguments: Mapping[str, tuple[Any, ...]] | None = None) -> None:
        outcomes = self._timed(method, self._each() if arguments is None else arguments)
        failed = {name: error for name, error in outcomes.items() if error is not None}
        # When one dies in a broadcast, those that hear of it fail too: they are not to blame.
        dead = {name: e for name, e in failed.items() if isinstance(e, PeerLostError)}
        erred = {n: e for n, e in failed.items() if not isinstance(e, UnfinishedError)}
        if failed:
            raise SamplersLostError({n: _why(e, method) for n, e in (dead or erred).items()})

    def _timed(self, method: str, arguments: Mapping[str, tuple[Any, ...]]) -> Outcomes:
        began = time.perf_counter()
        outcomes = self.call(method, arguments)
        if method in _PHASES:
            took = time.perf_counter() - began
            self.seconds = {**self.seconds, _PHASES[method]: took}
        return outcomes


_PHASES = {
    "begin_update": "hold",
    "receive_update": "receive",
    "prepare_update": "install",
    "commit_update": "commit",
}


def _why(error: BaseException, method: str) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"failed in {method}: {lines[0]}"
