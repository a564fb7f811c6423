"""Several backends as one: weights, health, failover."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from wfr.backends.base import Completion, OperatorRequest
from wfr.backends.guarded import DownError, Guarded
from wfr.backends.usage import Usage
from wfr.trajectory import WorldFailureError


class Pool:
    """Each request goes to one member, drawn by weight; one that fails there goes to the next.

    A member whose circuit is open is left alone, but for the probes that find out whether it is
    well again. Where all are down, requests wait for the heaviest.
    """

    def __init__(
        self,
        name: str,
        members: Mapping[Guarded, float],
        rng: random.Random | None = None,
    ) -> None:
        """`members` by weight."""
        self.name = name
        self._members = members
        self._rng = rng or random.Random()

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Those of its members."""
        found = {member.name: member.identity for member in self._members}
        return None if None in found.values() else found

    def deterministic(self, request: OperatorRequest) -> bool:
        """True where every member would be."""
        return all(member.deterministic(request) for member in self._members)

    async def measured(
        self, request: OperatorRequest, usage: Usage, *, patient: bool = True
    ) -> Completion:
        """Answer one request; raises what the last member that was asked raised."""
        failure: WorldFailureError | None = None
        for member in self._order():
            try:
                return await member.measured(request, usage, patient=False)
            except DownError:
                continue
            except WorldFailureError as error:
                failure = error
        if failure is not None:
            raise failure
        heaviest = max(self._members, key=self._members.__getitem__)
        return await heaviest.measured(request, usage, patient=True)

    def _order(self) -> list[Guarded]:
        """All members in random order, heavier ones earlier (Efraimidis and Spirakis, 2006)."""
        draws = {m: self._rng.random() ** (1 / weight) for m, weight in self._members.items()}
        return sorted(draws, key=draws.__getitem__, reverse=True)
