"""The engines of the versions that answer; one that is no longer wanted ends when it is idle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from cluster.serving.errors import ServingError
from cluster.serving.release import Release, Verdict
from wfr.protocols import Sample, SamplingRequest


class DirectorLike(Protocol):
    """One version behind an engine of its own; see `actors.director_server.DirectorServer`."""

    version: int
    application: Any
    """OpenAI's API as an ASGI application."""

    async def sample(self, request: SamplingRequest, on_text: Callable[[str], None]) -> Sample:
        """Sample one continuation; `on_text` gets its text piece by piece."""
        ...

    async def check_health(self) -> None:
        """Raise where the engine has died."""
        ...

    def shutdown(self) -> None:
        """End the engine."""
        ...


class Directors:
    """Hands out directors, and starts and ends them as `release` wants."""

    def __init__(
        self, release: Release, start: Callable[[Path, int], Awaitable[DirectorLike]]
    ) -> None:
        """`start(checkpoint, version)` starts an engine."""
        self.release = release
        self._start = start
        self._directors: dict[int, DirectorLike] = {}
        self._in_use: dict[int, int] = {}

    async def begin(self, path: Path) -> None:
        """Start the version in force."""
        await self._add(path, self.release.stable)

    async def offer(self, path: Path, version: int) -> None:
        """Start a newer version beside the others, and let it prove itself."""
        await self._add(path, version)
        if self.release.may_offer(version):
            self.release.offer(version)
        self._sweep()

    async def pin(self, path: Path, version: int) -> None:
        """Start `version` where it is not there, and let it alone answer."""
        if version not in self._directors:
            await self._add(path, version)
        self.release.pin(version)
        self._sweep()

    @contextlib.asynccontextmanager
    async def hold(self, *, stable: bool = False) -> AsyncIterator[DirectorLike]:
        """A director that stays until the caller is done; `stable`: never the canary."""
        version = self.release.stable if stable else self.release.choose()
        if version not in self._directors:
            raise ServingError(503, "not_ready", "the engine is not up yet", 5.0)
        self._in_use[version] += 1
        try:
            yield self._directors[version]
        finally:
            self._in_use[version] -= 1
            self._sweep()

    def note(self, version: int, *, sound: bool) -> Verdict | None:
        """A workflow of `version` ended well or not."""
        verdict = self.release.note(version, sound=sound)
        if verdict is not None:
            self._sweep()
        return verdict

    @property
    def versions(self) -> dict[int, int]:
        """Requests in flight by version."""
        return dict(self._in_use)

    async def check_health(self) -> None:
        """Raise where an engine has died."""
        await asyncio.gather(*(director.check_health() for director in self._directors.values()))

    def close(self) -> None:
        """End all engines."""
        for director in self._directors.values():
            director.shutdown()
        self._directors.clear()

    async def _add(self, path: Path, version: int) -> None:
        if version not in self._directors:
            self._directors[version] = await self._start(path, version)
            self._in_use.setdefault(version, 0)

    def _sweep(self) -> None:
        """End what neither answers nor is being waited for."""
        for version in self._directors.keys() - self.release.wanted:
            if not self._in_use[version]:
                self._directors.pop(version).shutdown()
                del self._in_use[version]
