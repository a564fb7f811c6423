"""Who waits for whom: the table of `cluster.run`, filled in for a moment of a run.

Given what every loop and process says it is doing, each gets a row; the chain from the training
loop along the rows ends at whoever holds the run up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

Phase = tuple[str, float]
"""What a loop is doing, and for how many seconds already."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What was found out; None stands for a process that did not answer in time.

    Attributes:
        loop: the training loop's phase: groups, train, publish, other.
        publisher: the publisher's: steps, weights (held by the mender), samplers, pool.
        mender: the mender's: losses, starting, joining.
        slots: slots of the buffer by state.
        workers: of each worker, how many of its episodes are in a phase (slot, sampler, operator,
            own), and for how many seconds the longest of them.
        samplers: of each, requests that it has, and whether it holds still for an update.
        silent: seconds for which a process has left the supervisor's question open.
        executors: why no executor is asked; empty where they are.
        disk_full: whether groups wait for room on the disk.
    """

    loop: Phase
    publisher: Phase
    mender: Phase
    slots: Mapping[str, int] | None
    workers: Mapping[str, Mapping[str, tuple[int, float]] | None]
    samplers: Mapping[str, tuple[int, bool] | None]
    silent: Mapping[str, float] = dataclasses.field(default_factory=dict)
    executors: str = ""
    disk_full: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """One row: who does what, and whom that waits for; nobody where `on` is empty."""

    who: str
    does: str
    on: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        """For people."""
        since = f" for {self.seconds:.0f} s" if self.seconds >= 1 else ""
        return f"{self.who} {self.does}{since}"


def waits(now: Snapshot) -> list[Wait]:
    """The rows of every loop and process."""
    rows = [
        _looked_up("training loop", now.loop, _LOOP),
        _looked_up("publisher", now.publisher, _PUBLISHER),
        _looked_up("mender", now.mender, _MENDER),
        _buffer(now),
        *(_worker(name, found, now) for name, found in now.workers.items()),
        *(_sampler(name, found, now) for name, found in now.samplers.items()),
        *(_quiet(name, now.silent) for name in now.silent if role_of(name) == "learner"),
    ]
    if now.executors:
        rows.append(Wait("executors", now.executors))
    if now.disk_full:
        rows.append(Wait("disk", "is full"))
    return rows


def chain(rows: Sequence[Wait], start: str = "training loop") -> list[Wait]:
    """The rows from `start` to whoever waits for nobody; a circle is cut where it closes."""
    found: list[Wait] = []
    wanted = start
    while row := _of(wanted, rows):
        if row in found:
            break
        found.append(row)
        wanted = row.on
    return found


def told(rows: Iterable[Wait]) -> str:
    """A chain for people."""
    return " ← ".join(map(str, rows))


def role_of(name: str) -> str:
    """`sampler` of `sampler-3`."""
    return name.rpartition("-")[0] or name


_LOOP = {
    "groups": ("waits for groups", "buffer"),
    "train": ("waits for a step of the learner", "learner"),
    "publish": ("waits for a publication", "publisher"),
    "other": ("does its own work", ""),
}
_PUBLISHER = {
    "steps": ("has nothing to publish", ""),
    "weights": ("waits until samplers have joined", "mender"),
    "samplers": ("sends weights", "sampler"),
    "pool": ("waits for samplers", "mender"),
}
_MENDER = {
    "losses": ("has nothing to replace", ""),
    "starting": ("starts samplers; is there a place for them?", ""),
    "joining": ("connects samplers", "sampler"),
}


def _looked_up(who: str, phase: Phase, table: Mapping[str, tuple[str, str]]) -> Wait:
    does, on = table[phase[0]]
    return Wait(who, does, on, phase[1])


def _buffer(now: Snapshot) -> Wait:
    slots = now.slots
    if slots is None:
        return _quiet("buffer", now.silent)
    counts = ", ".join(f"{slots.get(state, 0)} {word}" for state, word in _SLOTS.items())
    busy = slots.get("in_flight", 0) or slots.get("free", 0)
    return Wait("buffer", f"has slots: {counts}", "worker" if busy else "training loop")


_SLOTS = {"free": "free", "in_flight": "being played", "finished": "finished", "taken": "taken"}


def _worker(name: str, found: Mapping[str, tuple[int, float]] | None, now: Snapshot) -> Wait:
    if found is None:
        return _quiet(name, now.silent)
    if now.disk_full:
        return Wait(name, "waits for room on the disk", "disk")
    episodes = {phase: found[phase] for phase in _EPISODES if phase in found}
    if not episodes:
        return Wait(name, "waits for a slot", "buffer", found.get("slot", (0, 0.0))[1])
    phase = max(episodes, key=lambda p: episodes[p])
    count, longest = episodes[phase]
    does, on = _EPISODES[phase]
    return Wait(name, f"has {count} episodes that {does}", on, longest)


_EPISODES = {
    "sampler": ("wait for a sampler", "sampler"),
    "operator": ("wait for an operator", "executors"),
    "own": ("do their own work", ""),
}


def _sampler(name: str, found: tuple[int, bool] | None, now: Snapshot) -> Wait:
    if found is None or name in now.silent:
        return _quiet(name, now.silent)
    requests, holding = found
    if holding:
        return Wait(name, f"holds {requests} requests still for new weights", "publisher")
    return Wait(name, f"answers, and has {requests} requests")


def _quiet(name: str, silent: Mapping[str, float]) -> Wait:
    seconds = silent.get(name, max((s for n, s in silent.items() if role_of(n) == name), default=0))
    return Wait(name, _SILENT, "", seconds)


_SILENT = "has not answered"


def _of(wanted: str, rows: Sequence[Wait]) -> Wait | None:
    """The row of `wanted`, or of a role the one that is worst off: silent, then longest."""
    rows = [row for row in rows if wanted and wanted in (row.who, role_of(row.who))]
    return max(rows, key=lambda row: (row.does == _SILENT, row.seconds), default=None)
