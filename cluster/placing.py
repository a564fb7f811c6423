"""Placing a run's roles: which of the cluster's machines each process gets.

`cluster.placement` says what is asked for, `cluster.reservations` holds it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Collection, Sequence

from cluster.nodes import cluster_nodes, draining_nodes, free_nodes
from cluster.placement import Demand, MisfitError, demands, place, room
from cluster.reservations import Options, Reservations
from wfr.config import Config


class Placing:
    """Finds a place for every process that is started, and for each that replaces one."""

    def __init__(self, config: Config, *, gpu: bool) -> None:
        """`gpu`: the cluster has GPUs."""
        self._wanted = demands(config, gpu=gpu)
        self._samplers = config.sampler.count
        self._most = config.sampler.most
        self._wait = config.placement.wait
        self._reservations = Reservations(config.supervision.start_s)
        self._ready: dict[str, list[Options]] = {}
        self._closed: Callable[[Sequence[str]], Sequence[str]] = lambda nodes: ()

    def keep_away(self, closed: Callable[[Sequence[str]], Sequence[str]]) -> None:
        """From now on place nothing on machines that `closed` names among all there are."""
        self._closed = closed

    def check(self) -> None:
        """Ask whether the cluster as it is can hold the run.

        Raises:
            MisfitError: it cannot, and `placement.wait` does not say to wait until it can; or
                nobody could say for how many more samplers it has room.
        """
        if self._most > self._samplers and not self._of("sampler-0").counted:
            raise MisfitError(
                f"sampler.max={self._most}, but a sampler takes nothing that is counted, so no "
                "machine that joins could be told to have room; set placement.sampler.cpus or gpus"
            )
        if not self._wait:
            place(self._wanted, cluster_nodes())

    async def prepare(self, *, learner: bool = True) -> None:
        """Reserve places for the gang, which is hardest to place, and then for all samplers.

        Where some samplers have their places already, those that are missing get theirs one by one.
        """
        if learner:
            self._ready["learner"] = await self._reserve(self._of("learner"))
        taken = any(name.startswith("sampler-") for name in self._reservations.names)
        names = [] if taken else [f"sampler-{index}" for index in range(self._samplers)]
        found = await asyncio.gather(*(self._reserve(self._of(name)) for name in names))
        self._ready |= dict(zip(names, found, strict=True))

    async def gang(self) -> list[Options]:
        """A place for each rank of the learner; those of earlier ranks are given back."""
        return self._ready.pop("learner", None) or await self._reserve(self._of("learner"))

    async def sampler(self, name: str) -> Options:
        """A place for one sampler."""
        found = self._ready.pop(name, None)
        if found is None:
            alike = self._of("sampler-0")
            found = await self._reserve(dataclasses.replace(alike, name=name))
        return found[0]

    def room(self) -> int:
        """How many more samplers there is room for, on machines that stay and are not closed."""
        nodes = free_nodes()
        closed = self._closed([node.name for node in nodes])
        return room(self._of("sampler-0"), [node for node in nodes if node.name not in closed])

    def going(self) -> dict[str, float]:
        """Machines that were told to go, with the seconds that they have left."""
        return draining_nodes()

    async def worker(self, index: int) -> Options:
        """A place for one worker, on a sampler's machine where it can be."""
        demand = self._of(f"worker-{index}")
        (found,) = await self._reserve(demand)
        homes = [name for name in self._reservations.names if name.startswith("sampler-")]
        if demand.near and homes and not demand.counted:
            found |= self._reservations.beside(homes[index % len(homes)])
        return found

    def release(self, name: str) -> None:
        """Give back the place of a process that has ended."""
        self._ready.pop(name, None)
        self._reservations.release(name)

    def close(self, keep: Collection[str] = ()) -> None:
        """Give all places back but those of `keep`."""
        self._ready.clear()
        for name in self._reservations.names:
            if name not in keep:
                self._reservations.release(name)

    def _of(self, name: str) -> Demand:
        return next(demand for demand in self._wanted if demand.name == name)

    async def _reserve(self, demand: Demand) -> list[Options]:
        nodes = [node.name for node in cluster_nodes()]
        return await self._reservations.reserve(demand, self._closed(nodes))
