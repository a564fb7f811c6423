"""Placement: what a run asks of a cluster, and whether the cluster can hold it.

Pure arithmetic over machines that may exist (`cluster.nodes` reads Ray's) or not (`wfr plan`). Ray
does the placing itself, by placement groups; this says beforehand what would fit, and why not.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from wfr.config import Config

_EPSILON = 1e-6


class MisfitError(ValueError):
    """A cluster that cannot hold a run; the text says what is missing and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A machine: its name, CPU cores, GPUs, labels."""

    name: str
    cpus: float
    gpus: float = 0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """Processes that are placed together.

    Attributes:
        name: of the role instance: `learner`, `sampler-3`, `worker-0`.
        processes: how many; each takes `cpus` cores and `gpus` GPUs of one machine.
        strategy: one of Ray's, in lower case.
        labels: what each machine must have, as in Ray's label selectors.
        near: name of a demand on whose machine it is placed if there is room.
    """

    name: str
    processes: int
    cpus: float
    gpus: float
    strategy: str = "pack"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    near: str = ""

    @property
    def counted(self) -> bool:
        """Whether it takes anything that is counted."""
        return self.cpus > 0 or self.gpus > 0

    def __str__(self) -> str:
        """For people."""
        parts = [f"{self.gpus:g} GPUs" if self.gpus else "", f"{self.cpus:g} CPUs"]
        needs = " and ".join(part for part in parts if part and not part.startswith("0 "))
        each = f"{self.processes} × " if self.processes > 1 else ""
        where = f" on machines with {_told(self.labels)}" if self.labels else ""
        return f"{each}{needs or 'no counted resource'}{where}"


def demands(config: Config, *, gpu: bool) -> list[Demand]:
    """What a run asks for, the gang first; `gpu`: the cluster has GPUs."""
    places, parts = config.placement, config.sampler.tensor_parallel
    usual = (0.5 if config.sampler.colocated else 1.0) if gpu else 0.0
    each = usual if places.sampler.gpus is None else places.sampler.gpus
    gang = places.learner
    ask = [
        Demand(
            "learner",
            config.learner.ranks,
            gang.cpus,
            usual if gang.gpus is None else gang.gpus,
            gang.strategy,
            gang.labels,
        )
    ]
    ask += [
        Demand(
            f"sampler-{index}",
            1,
            places.sampler.cpus * parts,
            each * parts,
            "strict_pack",
            places.sampler.labels,
        )
        for index in range(config.sampler.count)
    ]
    worker = places.worker
    near = worker.near_samplers and not worker.labels
    ask += [
        Demand(
            f"worker-{index}",
            1,
            worker.cpus,
            0.0,
            labels=worker.labels,
            near=f"sampler-{index % config.sampler.count}" if near else "",
        )
        for index in range(config.rollout.workers)
    ]
    return ask


def place(wanted: Sequence[Demand], nodes: Sequence[Node]) -> dict[str, list[str]]:
    """The machine of every process, by demand, in order.

    Raises:
        MisfitError: at the first demand that does not fit behind those before it.
    """
    free = [_Free(node) for node in nodes]
    placed: dict[str, list[str]] = {}
    for demand in sorted(wanted, key=_size, reverse=True):
        fitting = [each for each in free if matches(demand.labels, each.node.labels)]
        near = placed.get(demand.near, [""])[0]
        found = _take(demand, fitting, near)
        if found is None:
            raise MisfitError(_why(demand, fitting, nodes))
        placed[demand.name] = found
    return {demand.name: placed[demand.name] for demand in wanted}


def room(demand: Demand, free: Iterable[Node]) -> int:
    """How many more of a demand fit, each on one machine, into what machines have left."""
    return sum(_fits(demand, node) for node in free if matches(demand.labels, node.labels))


def _fits(demand: Demand, node: Node) -> int:
    amounts = ((demand.cpus, node.cpus), (demand.gpus, node.gpus))
    return min((int((left + _EPSILON) / each) for each, left in amounts if each), default=0)


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy selectors, as Ray reads them."""
    return all(_matches(selector, labels.get(key)) for key, selector in wanted.items())


def _matches(selector: str, value: str | None) -> bool:
    negative, rest = selector.startswith("!"), selector.removeprefix("!")
    listed = _LIST.fullmatch(rest)
    allowed = listed[1].split(",") if listed else [rest]
    return (value in (each.strip() for each in allowed)) != negative


_LIST = re.compile(r"in\((.*)\)")


class _Free:
    """What is left of a machine; whole GPUs and shares of one are never mixed."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cpus = node.cpus
        self.gpus = [1.0] * int(node.gpus)

    def take(self, cpus: float, gpus: float) -> bool:
        """Take it if it is there."""
        devices = self._devices(gpus)
        if self.cpus + _EPSILON < cpus or devices is None:
            return False
        self.cpus -= cpus
        for device in devices:
            self.gpus[device] -= min(gpus, 1.0)
        return True

    def give_back(self, cpus: float, before: list[float]) -> None:
        self.cpus += cpus
        self.gpus = before

    def _devices(self, gpus: float) -> list[int] | None:
        """Which GPUs to take from: for a share the fullest that has room for it."""
        if gpus <= _EPSILON:
            return []
        if gpus < 1:
            room = [d for d, left in enumerate(self.gpus) if left + _EPSILON >= gpus]
            return [min(room, key=lambda d: self.gpus[d])] if room else None
        whole = [d for d, left in enumerate(self.gpus) if left >= 1 - _EPSILON]
        return whole[: int(gpus)] if len(whole) >= gpus else None


def _size(demand: Demand) -> tuple[bool, float, float]:
    """What is hardest to place goes first; who follows another goes last."""
    return not demand.near, demand.processes * demand.gpus, demand.processes * demand.cpus


def _take(demand: Demand, free: list[_Free], near: str) -> list[str] | None:
    """Machines for all processes of a demand, or none and nothing taken."""
    for order in _orders(demand, free, near):
        taken: list[tuple[_Free, list[float]]] = []
        for each in order:
            before = list(each.gpus)
            if len(taken) < demand.processes and each.take(demand.cpus, demand.gpus):
                taken.append((each, before))
        if len(taken) == demand.processes:
            return [each.node.name for each, _ in taken]
        for each, before in reversed(taken):
            each.give_back(demand.cpus, before)
    return None


def _orders(demand: Demand, free: list[_Free], near: str) -> Iterator[list[_Free]]:
    """Machines in the order in which processes are tried on them, one entry a process."""
    tight = sorted(free, key=lambda f: (sum(f.gpus), f.cpus, f.node.name))
    tight.sort(key=lambda f: f.node.name != near)
    count = demand.processes
    if demand.strategy == "strict_pack":
        yield from ([each] * count for each in tight)
    elif demand.strategy == "strict_spread":
        yield tight[::-1]
    elif demand.strategy == "spread":
        yield tight[::-1] * count
    else:
        yield from ([each] * count for each in tight)
        yield [each for each in tight[::-1] for _ in range(count)]


def _why(demand: Demand, fitting: Sequence[_Free], nodes: Sequence[Node]) -> str:
    role = demand.name.partition("-")[0]
    asked = f"{demand.name} asks for {demand}"
    if demand.processes > 1:
        asked += f", {demand.strategy}"
    if not fitting:
        return (
            f"{asked}, but none of {len(nodes)} machines has these labels; see `ray status -v`, "
            f"or change placement.{role}.labels"
        )
    total = f"{sum(len(f.gpus) for f in fitting)} GPUs and {sum(f.node.cpus for f in fitting):g}"
    left = Counter(f"{sum(f.gpus):g} GPUs and {f.cpus:g} CPUs" for f in fitting)
    shown = ", ".join(f"{count} × {what}" for what, count in left.most_common(4))
    return (
        f"{asked}; what is placed before leaves on its {len(fitting)} machines ({total} CPUs in "
        f"all): {shown}. Add machines, or {_REMEDIES[role]}"
    )


_REMEDIES = {
    "learner": "lower learner.ranks, or set placement.learner.strategy to pack",
    "sampler": "lower sampler.count or sampler.tensor_parallel, or let samplers share GPUs "
    "(placement.sampler.gpus below 1)",
    "worker": "lower rollout.workers or placement.worker.cpus",
}


def _told(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def used(wanted: Iterable[Demand], placed: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """By machine, what runs on it."""
    found: dict[str, list[str]] = {}
    for demand in wanted:
        for name, count in Counter(placed[demand.name]).items():
            found.setdefault(name, []).append(
                f"{demand.name} × {count}" if demand.processes > 1 else demand.name
            )
    return found
