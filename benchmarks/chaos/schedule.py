"""The schedule of a chaos run: which fault, when, on whom; drawn from a seed alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Literal, TypeVar

T = TypeVar("T")
What = Literal["kill", "freeze", "slow", "cut"]

MACHINE = "machine"
ROLES = {
    "sampler": "ray::HostedSampler",
    "engine": "VLLM::EngineCore",
    "worker": "ray::HostedWorker",
    "learner": "ray::HostedLearner",
    "buffer": "ray::HostedBuffer",
    "executors": "ray::HostedHub",
}
"""What the processes of each role are called."""

WEIGHTS: dict[tuple[What, str], float] = {
    **{("kill", role): 2.0 for role in ("sampler", "engine", "worker", "learner")},
    **{("freeze", role): 1.0 for role in ("sampler", "engine", "worker", "learner", "buffer")},
    **{("slow", role): 1.0 for role in ("sampler", "engine", "worker", "learner", "buffer")},
    ("kill", "buffer"): 1.0,
    ("kill", "executors"): 1.0,
    ("kill", MACHINE): 1.5,
    ("slow", MACHINE): 1.0,
    ("cut", MACHINE): 1.5,
}
"""How often each fault is drawn, relative to the others."""

GAP_S = (5.0, 15.0)
_SHORT_S, _LONG_S = (2.0, 6.0), (20.0, 30.0)
_LONG_SHARE = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done.

    Attributes:
        at: seconds after the first step of the run.
        what: `kill` ends at once; the others last for `seconds`.
        whom: a role of `ROLES`, or a machine.
        pick: which of those that there are by then, as a share of their number, in [0, 1).
        seconds: how long it lasts; 0 for `kill`.
    """

    at: float
    what: What
    whom: str
    pick: float
    seconds: float = 0.0

    def __str__(self) -> str:
        """For people."""
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s  {self.what} {self.whom} ({self.pick:.2f}){lasting}"


def draw(seed: int, seconds: float) -> list[Fault]:
    """The faults of so many seconds; equal arguments give equal faults."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at = chance.uniform(*GAP_S)
    while at < seconds:
        ((what, whom),) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        lasts = chance.uniform(*(_LONG_S if chance.random() < _LONG_SHARE else _SHORT_S))
        pick = chance.random()
        faults.append(Fault(at, what, whom, pick, 0.0 if what == "kill" else lasts))
        at += chance.uniform(*GAP_S)
    return faults


def pick(fault: Fault, candidates: Sequence[T]) -> T | None:
    """The one whom the fault hits, or nobody where there are none."""
    return candidates[int(fault.pick * len(candidates))] if candidates else None
