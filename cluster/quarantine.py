"""The quarantine: machines on which process after process was lost get no further ones for a while.

A bad machine (a GPU that falls off the bus, a full disk) fails whatever is started on it, at once
and for ever. Without this a run would spend its whole budget of losses there.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection

from wfr.supervision_config import SupervisionConfig


class Quarantine:
    """Decides which nodes are closed.

    At most half of all nodes are at any time: a fault of the program, which fails everywhere, does
    not close the whole cluster.
    """

    def __init__(self, rules: SupervisionConfig, clock: Callable[[], float]) -> None:
        """`clock` gives seconds; any origin."""
        self._losses = rules.quarantine_losses
        self._seconds = rules.quarantine_s
        self._clock = clock
        self._lost: defaultdict[str, deque[float]] = defaultdict(deque)
        self._until: dict[str, float] = {}

    def lose(self, node: str) -> bool:
        """Book a process lost on `node`; returns whether that closes it."""
        now = self._clock()
        lost = self._lost[node]
        lost.append(now)
        while lost[0] < now - self._seconds:
            lost.popleft()
        if len(lost) < self._losses:
            return False
        lost.clear()
        self._until[node] = now + self._seconds
        return True

    def closed(self, nodes: Collection[str]) -> tuple[str, ...]:
        """Of all `nodes`, those that get no process now: closed last, kept longest."""
        now = self._clock()
        self._until = {node: until for node, until in self._until.items() if until > now}
        shut = sorted((n for n in self._until if n in nodes), key=lambda n: -self._until[n])
        return tuple(shut[: len(nodes) // 2])
