"""The supervisor: who has to answer, who does not, and whom to end for it.

Every process of a run is asked now and then whether it is alive. One that leaves the question open
for too long is *silent*: frozen, cut off, or on a machine that hangs. Ray reports processes that
have died, but not these. The run ends a silent process, and then has a dead one, of which the
table of failures in `docs/operations.md` says what follows.

This is the state machine alone: it asks nobody and kills nobody (`cluster.heartbeats` does), and
its time is what the caller's clock says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

from wfr.supervision_config import SupervisionConfig


@dataclasses.dataclass(slots=True)
class _Peer:
    """A process that is supervised: when it was asked and heard of; is a question open?"""

    asked: float
    heard: float = -math.inf
    open: bool = False
    condemned: bool = False


class Supervisor:
    """Keeps the questions that are open.

    Silence is counted while the supervisor itself is awake: where its clock leaps, because the
    machine slept or its own process was held up, at most one heartbeat of the leap counts.
    """

    def __init__(self, rules: SupervisionConfig, clock: Callable[[], float]) -> None:
        """`clock` gives seconds; any origin."""
        self._rules = rules
        self._clock = clock
        self._read = clock()
        self._awake = 0.0
        self._peers: dict[str, _Peer] = {}

    def look(self) -> None:
        """Let the time pass that has passed; call it once a heartbeat or more often."""
        now = self._clock()
        self._awake += min(max(0.0, now - self._read), self._rules.heartbeat_s)
        self._read = now

    def keep(self, names: Iterable[str]) -> None:
        """Supervise exactly these; who is new has just answered."""
        wanted = set(names)
        for name in wanted - self._peers.keys():
            self._peers[name] = _Peer(self._awake)
        for name in self._peers.keys() - wanted:
            del self._peers[name]

    def ask(self) -> list[str]:
        """Whom to ask now: each counts as asked. Nobody is asked twice at a time.

        Who was heard of is spared the next question: by the one after it, others tell again.
        """
        due = [
            name
            for name, peer in self._peers.items()
            if not peer.open
            and self._awake - peer.asked >= self._rules.heartbeat_s
            and self._awake - peer.heard >= 2 * self._rules.heartbeat_s
        ]
        for name in due:
            self._peers[name].asked, self._peers[name].open = self._awake, True
        return due

    def answered(self, name: str) -> None:
        """A process has answered, whatever it said; a late answer of one that is gone is none."""
        if name in self._peers:
            self._peers[name].open = self._peers[name].condemned = False

    def heard(self, name: str) -> None:
        """Somebody else had an answer of this process lately; a question that is open stays so."""
        if name in self._peers:
            self._peers[name].heard = self._awake

    def silence(self, name: str) -> float:
        """Seconds for which a question to this process has been open; 0: none is."""
        peer = self._peers.get(name)
        return self._awake - peer.asked if peer is not None and peer.open else 0.0

    def condemn(self) -> list[str]:
        """Who has become silent since the last call; each is named once."""
        silent = [
            name
            for name, peer in self._peers.items()
            if not peer.condemned and self.silence(name) >= self._rules.silent_s
        ]
        for name in silent:
            self._peers[name].condemned = True
        return silent

    def check_valid(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        for name, peer in self._peers.items():
            assert peer.asked <= self._awake, f"{name} was asked in the future"
            assert peer.open or not peer.condemned, f"{name} is condemned without a question"
