"""Which version answers: a newer one takes over by degrees, or is taken back."""

from __future__ import annotations

from collections import deque
from enum import StrEnum

from wfr.serving_config import CanaryConfig

_WINDOW = 500
"""Latest workflows of the version in force that a newer one is compared with."""


class Verdict(StrEnum):
    """What became of a canary."""

    PROMOTED = "promoted"
    TAKEN_BACK = "taken_back"


class Release:
    """A state machine without engines: it is told of versions and outcomes.

    There is one version in force, and at most one canary beside it that gets a fixed share of the
    workflows. Once it has had `workflows` of them, it takes over or is taken back for good; it is
    taken back earlier where it could not pass any more. A pinned version alone answers.
    """

    def __init__(self, version: int, config: CanaryConfig) -> None:
        """`version` is in force."""
        self._config = config
        self._given = 0.0
        self._outcomes: deque[bool] = deque(maxlen=_WINDOW)
        self._canary_outcomes: list[bool] = []
        self.stable = version
        self.canary: int | None = None
        self.pinned: int | None = None
        self.rejected: set[int] = set()

    @property
    def wanted(self) -> frozenset[int]:
        """Versions that have to be there."""
        return frozenset({self.stable} if self.canary is None else {self.stable, self.canary})

    def may_offer(self, version: int) -> bool:
        """Whether `version` is news: newer than what answers, and never taken back."""
        newest = max(self.wanted)
        return self.pinned is None and version > newest and version not in self.rejected

    def offer(self, version: int) -> None:
        """Make `version` the canary, in the place of one that is not decided yet."""
        assert self.may_offer(version), version
        if self._config.workflows == 0:
            self._take_over(version)
        else:
            self._begin(version)

    def pin(self, version: int) -> None:
        """`version` alone answers until `unpin`; a canary is dropped, not rejected."""
        self.pinned = version
        if version != self.stable:
            self._take_over(version)
        self._begin(None)

    def unpin(self) -> None:
        """Newer versions may come again."""
        self.pinned = None

    def choose(self) -> int:
        """The version of the next workflow; shares are exact, not drawn."""
        if self.canary is None:
            return self.stable
        self._given += self._config.percent / 100
        if self._given < 1:
            return self.stable
        self._given -= 1
        return self.canary

    def note(self, version: int, *, sound: bool) -> Verdict | None:
        """A workflow of `version` ended well or not; what that decides, if anything."""
        if version == self.stable:
            self._outcomes.append(sound)
        if version != self.canary:
            return None
        self._canary_outcomes.append(sound)
        allowed = (self._bad_share() + self._config.tolerance) * self._config.workflows
        if self._canary_outcomes.count(False) > allowed:
            self.rejected.add(version)
            self._begin(None)
            return Verdict.TAKEN_BACK
        if len(self._canary_outcomes) < self._config.workflows:
            return None
        self._take_over(version)
        return Verdict.PROMOTED

    def _bad_share(self) -> float:
        return self._outcomes.count(False) / len(self._outcomes) if self._outcomes else 0.0

    def _take_over(self, version: int) -> None:
        outcomes = self._canary_outcomes if version == self.canary else []
        self._outcomes.clear()
        self._outcomes.extend(outcomes)
        self.stable = version
        self._begin(None)

    def _begin(self, canary: int | None) -> None:
        self.canary = canary
        self._canary_outcomes = []
        self._given = 0.0
