"""Are all machines of a cluster fit for this run, and alike? Asked of each before it starts.

Pure comparisons; `cluster.node_survey` collects what is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from cluster.preflight.check import Check
from cluster.preflight.footprint import GIB, Footprint

MOST_SKEW_S = 2.0
"""Clocks further apart mix up the times in journals and metrics."""


class UnfitError(RuntimeError):
    """Machines of a cluster are not fit for a run; the text names them, and the remedies."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one machine says of itself.

    Attributes:
        name: its address.
        versions: of the interpreter and of distributions, by name; absent ones are left out.
        clock_s: how far its clock is ahead of the driver's, in seconds.
        clock_error_s: by how much that may be wrong.
        shared_memory: free bytes of /dev/shm.
        disk: free bytes under the run directory; none where it does not see that.
        model: whether it sees the director's checkpoint.
        sandbox: why code cannot be confined there; empty where it can.
    """

    name: str
    versions: Mapping[str, str]
    clock_s: float
    clock_error_s: float
    shared_memory: int
    disk: int | None
    model: bool
    sandbox: str


def node_checks(
    driver: NodeFacts, nodes: Sequence[NodeFacts], silent: Sequence[str], need: Footprint
) -> list[Check]:
    """Compare every machine with the driver's; those in `silent` did not answer."""
    return [
        _check("nodes", [f"{name} does not answer" for name in silent], _ANSWER, len(nodes)),
        _check("node versions", _each(nodes, lambda n: _differences(driver, n)), _SAME, len(nodes)),
        _check("node clocks", _each(nodes, _skew), "run chrony or another NTP client", len(nodes)),
        _check(
            "node shared memory",
            _each(nodes, lambda n: _short(n.shared_memory, need.shared_memory, "in /dev/shm")),
            "enlarge /dev/shm (in Docker: --shm-size)",
            len(nodes),
        ),
        _check("node run directory", _each(nodes, _directory), _SHARED, len(nodes)),
        _check("node model", _each(nodes, _model), _SHARED_MODEL, len(nodes)),
        _check("node sandbox", _each(nodes, lambda n: [n.sandbox]), _CONFINE, len(nodes)),
    ]


_ANSWER = "see `ray status`; a machine that is gone is removed there after a while"
_SAME = "install the same environment on every machine, best from one image"
_SHARED = "put run.dir on storage that all machines share under one path"
_SHARED_MODEL = "put model.path on storage that all machines share under one path"
_CONFINE = (
    "install bubblewrap and allow unprivileged user namespaces there, or keep workers away with "
    "placement.worker.labels"
)


def _check(name: str, faults: Iterable[str], remedy: str, nodes: int) -> Check:
    told = list(faults)
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    found = "; ".join(told[:_SHOWN]) + more if told else f"well on {nodes} machines"
    return Check(name, not told, found, remedy)


_SHOWN = 5


def _each(
    nodes: Sequence[NodeFacts], faults: Callable[[NodeFacts], Iterable[str]]
) -> Iterator[str]:
    return (f"{node.name}: {fault}" for node in nodes for fault in faults(node) if fault)


def _differences(driver: NodeFacts, node: NodeFacts) -> Iterator[str]:
    for name in sorted({*driver.versions, *node.versions}):
        here, there = driver.versions.get(name, "none"), node.versions.get(name, "none")
        if here != there:
            yield f"{name} {there}, the driver has {here}"


def _skew(node: NodeFacts) -> Iterator[str]:
    if abs(node.clock_s) - node.clock_error_s > MOST_SKEW_S:
        way = "ahead of" if node.clock_s > 0 else "behind"
        yield f"{abs(node.clock_s):.1f} s {way} the driver"


def _short(free: int, need: int, where: str) -> Iterator[str]:
    if free < need:
        yield f"{free / GIB:.2f} GiB free {where}, about {need / GIB:.2f} GiB needed"


def _directory(node: NodeFacts) -> Iterator[str]:
    if node.disk is None:
        yield "does not see the run directory"


def _model(node: NodeFacts) -> Iterator[str]:
    if not node.model:
        yield "does not see the director's checkpoint"
