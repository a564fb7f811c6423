"""The machines of the Ray cluster that this process belongs to."""

from __future__ import annotations

from typing import Any

import ray

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
