"""The machines of the Ray cluster that this process belongs to."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.placement import Node


def cluster_nodes() -> list[Node]:
    """Every machine that is alive, under its node id."""
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(
            node["NodeID"],
            node["Resources"].get("CPU", 0.0),
            int(node["Resources"].get("GPU", 0)),
            node.get("Labels", {}),
        )
        for node in listed
        if node["Alive"]
    ]


def address() -> str:
    """Where other machines of the cluster reach this process."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def here() -> dict[str, Any]:
    """Options of an actor that runs on the driver's machine, whose loss ends the run anyway."""
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def draining_nodes() -> dict[str, float]:
    """Machines that were told to go, by node id, with the seconds they have left; inf: not said.

    By `ray drain-node`, by an autoscaler, or by SIGTERM to `ray start --block`, which is how
    Kubernetes and most clouds give notice. Ray places nothing on them any more, and tells nobody.
    """
    # There is no public way to ask; Ray's own libraries ask so.
    told: Mapping[str, int] = ray._private.state.state.get_draining_nodes()
    now = time.time()
    return {node: at / 1000 - now if at else math.inf for node, at in told.items()}


def free_nodes() -> list[Node]:
    """Every machine that is alive and stays, with what nobody has taken of it."""
    state: Any = ray._private.state
    left: Mapping[str, Mapping[str, float]] = state.available_resources_per_node()
    going = draining_nodes()
    return [
        Node(node.name, free.get("CPU", 0.0), free.get("GPU", 0.0), node.labels)
        for node in cluster_nodes()
        if node.name not in going and (free := left.get(node.name)) is not None
    ]
