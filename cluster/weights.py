"""The samplers as vLLM's trainer engines want to see them: four blocking calls for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from cluster.remote import Remote
from wfr.protocols import PeerLostError


class RemoteSamplers:
    """Fans vLLM's weight-sync calls out to all samplers; used inside the learner's process."""

    version = 0

    def __init__(self, samplers: Sequence[Remote], workers_each: int, timeout_s: float) -> None:
        """Drive `samplers`, each of which has `workers_each` ranks in the transfer group."""
        self._samplers = list(samplers)
        self._workers_each = workers_each
        self._timeout_s = timeout_s

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Let every sampler join the group, each at its own ranks."""
        offsets = [
            {**init_info, "rank_offset": init_info["rank_offset"] + index * self._workers_each}
            for index in range(len(self._samplers))
        ]
        self._all("init_transfer", [(offset,) for offset in offsets])

    def start_weight_update(self) -> None:
        """Hold generation still everywhere."""
        self._all("begin_update")

    def update_weights(self, update_info: Any) -> None:
        """Receive everywhere; runs beside the broadcast that it has to meet."""
        self._all("receive_update", [(update_info,)] * len(self._samplers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the weights in force everywhere as `version`."""
        version = self.version if weight_version is None else int(weight_version)
        self._all("finish_update", [(version,)] * len(self._samplers))

    def _all(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> None:
        arguments = arguments or [()] * len(self._samplers)
        calls = [
            getattr(sampler.handle, method).remote(*args)
            for sampler, args in zip(self._samplers, arguments, strict=True)
        ]
        try:
            ray.get(calls, timeout=self._timeout_s)
        except GetTimeoutError as error:
            raise PeerLostError(
                f"a sampler did not answer {method} within {self._timeout_s:.0f} s"
            ) from error
        except RayTaskError as error:
            # Its process lives, but its engine may not: an update that failed half-way leaves
            # nothing to rely on.
            raise PeerLostError(f"a sampler failed during {method}: {error.cause}") from error
        except RayActorError as error:
            raise PeerLostError(f"a sampler died during {method}: {error}") from error
