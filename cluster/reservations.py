"""Reservations: Ray placement groups for what a run's roles take.

A role that takes counted resources gets a placement group: all of it or nothing, on machines with
the right labels that are not in quarantine. What takes nothing needs no place, and only its
machine is chosen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from cluster.placement import Demand
from wfr.protocols import PeerLostError

Options = dict[str, Any]
"""Options of one actor that say where it runs and what it takes."""


class Reservations:
    """The placement groups of one run, by the name of what they are for."""

    def __init__(self, wait_s: float) -> None:
        """Wait at most `wait_s` seconds for a place."""
        self._wait_s = wait_s
        self._groups: dict[str, PlacementGroup] = {}

    async def reserve(self, demand: Demand, closed: Sequence[str] = ()) -> list[Options]:
        """Reserve places, one for each process, in the place of any there were under that name.

        Raises:
            PeerLostError: the cluster had no room for it in time.
        """
        self.release(demand.name)
        labels = _labels(demand, closed)
        taken: Options = {"num_cpus": demand.cpus}
        if demand.gpus:
            taken["num_gpus"] = demand.gpus
        if not demand.counted:
            free = taken | ({"label_selector": labels} if labels else {})
            if demand.processes == 1:
                # Otherwise Ray may put all samplers on one machine, and all are lost with it.
                free["scheduling_strategy"] = "SPREAD"
            return [dict(free) for _ in range(demand.processes)]
        group = placement_group(
            [_bundle(demand)] * demand.processes,
            strategy=demand.strategy.upper(),
            bundle_label_selector=[labels] * demand.processes if labels else None,
        )
        self._groups[demand.name] = group
        await self._ready(demand, group)
        return [
            taken | {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index)}
            for index in range(demand.processes)
        ]

    @property
    def names(self) -> list[str]:
        """What places are reserved for, the oldest first."""
        return list(self._groups)

    def node(self, name: str) -> str:
        """Id of the machine of the first place under `name`; empty where none is reserved."""
        group = self._groups.get(name)
        if group is None:
            return ""
        placed: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
        return placed.get(0, "")

    def beside(self, name: str) -> Options:
        """Where to run one that wants to be on the machine of what was reserved under `name`.

        Not softly, which Ray does not heed for what takes nothing: where the machine has just gone
        the process counts as lost, and the next one asks again.
        """
        node = self.node(name)
        if not node:
            return {}
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}

    def release(self, name: str) -> None:
        """Give places back; whatever runs in them ends."""
        group = self._groups.pop(name, None)
        if group is not None:
            remove_placement_group(group)

    def close(self) -> None:
        """Give all places back."""
        for name in list(self._groups):
            self.release(name)

    async def _ready(self, demand: Demand, group: PlacementGroup) -> None:
        ready = asyncio.wrap_future(group.ready().future())
        try:
            async with asyncio.timeout(self._wait_s):
                await ready
        except (TimeoutError, ray.exceptions.RayError) as error:
            self.release(demand.name)
            raise PeerLostError(
                f"no place for {demand.name}, which takes {demand}, within supervision.start_s="
                f"{self._wait_s:g}; `ray status` shows what the cluster has left"
            ) from error
        except asyncio.CancelledError:
            self.release(demand.name)
            raise


def _bundle(demand: Demand) -> dict[str, float]:
    bundle = {"CPU": demand.cpus, "GPU": demand.gpus}
    return {name: amount for name, amount in bundle.items() if amount}


def _labels(demand: Demand, closed: Sequence[str]) -> dict[str, str]:
    kept_away = {"ray.io/node-id": f"!in({','.join(closed)})"} if closed else {}
    return {**demand.labels, **kept_away}
