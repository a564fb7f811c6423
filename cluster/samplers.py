"""The pool of samplers: started, watched, replaced; it grows, and samplers leave it.

A sampler that joins gets the current weights before its first request. One that dies is replaced;
its episodes move on with their token ids, as those of one that leaves do. The pool only knows
processes: connecting them to the learner is the fleet's business, under its weights lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wfr.protocols import PeerLostError

if TYPE_CHECKING:
    from cluster.remote import Remote


class StartError(PeerLostError):
    """Samplers did not come up; `lost` says which, and why."""

    def __init__(self, lost: Mapping[str, str]) -> None:
        """`lost` maps names to reasons."""
        super().__init__("; ".join(f"{name}: {why}" for name, why in lost.items()))
        self.lost = dict(lost)


class SamplerPool:
    """Keeps `count` samplers alive, or more while `want` says so.

    Attributes:
        lost: who died or was ended, and why, in order.
        left: who was told to leave, and why, in order.
        leaving: who is leaving; it is still up, and to be replaced.
        adopted: whether some were up before the pool was made.
        came_up: `time.monotonic()` of when each began to start, and was up; none for adopted ones.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[str], Awaitable[Remote]],
        ended: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`start` brings up one sampler of the given name, ready to join.

        `ended` is told the name of each that was taken out.
        """
        self._count = self._wanted = count
        self._start = start
        self._ended = ended
        self._started = 0
        self._live: dict[str, Remote] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._fault: BaseException | None = None
        self.lost: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []
        self.leaving: set[str] = set()
        self.adopted = False
        self.came_up: dict[str, tuple[float, float]] = {}
        self.changed = asyncio.Event()
        self.joined = asyncio.Event()

    @property
    def live(self) -> Mapping[str, Remote]:
        """The samplers that are up, by name."""
        return dict(self._live)

    @property
    def staying(self) -> Mapping[str, Remote]:
        """Those of them that are not leaving."""
        return {name: each for name, each in self._live.items() if name not in self.leaving}

    def want(self, count: int) -> None:
        """Keep so many from now on.

        Each that is lost or leaves makes it one less, down to the `count` of the beginning: what is
        above that there need not be room for any more.
        """
        self._wanted = max(count, self._count)
        self.changed.set()

    def adopt(self, samplers: Mapping[str, Remote]) -> None:
        """Take in samplers that are up already, before any is started."""
        self.adopted = bool(samplers)
        for name, sampler in samplers.items():
            self._started = max(self._started, 1 + int(name.rpartition("-")[2]))
            self._admit(name, sampler)

    def hand_over(self) -> Mapping[str, Remote]:
        """Give away the samplers that are up and stay, as they are; those that leave are ended."""
        for task in self._watchers.values():
            task.cancel()
        for name in self.leaving & self._live.keys():
            self._live.pop(name).kill()
            self._ended(name)
        found, self._live = self._live, {}
        return found

    async def refill(self) -> None:
        """Start what is missing, all at once, and keep those that came up.

        Raises:
            StartError: naming those that did not; nobody else is to blame for it.
        """
        names = self._missing()
        starts = (self._started_and_admitted(name) for name in names)
        fresh = await asyncio.gather(*starts, return_exceptions=True)
        failed = {n: e for n, e in zip(names, fresh, strict=True) if isinstance(e, BaseException)}
        other = next((e for e in failed.values() if not isinstance(e, PeerLostError)), None)
        if other is not None:
            raise other
        if failed:
            raise StartError({name: gist(error) for name, error in failed.items()})

    @property
    def starting(self) -> list[str]:
        """The samplers that `begin` has begun to start."""
        return list(self._starting)

    def begin(self) -> None:
        """Start what is missing and not being started, and return at once.

        `changed` is set when one is up, and when one is lost because it did not come up.

        Raises:
            Exception: what an earlier start has failed with, other than a lost peer.
        """
        if self._fault is not None:
            raise self._fault
        for name in self._missing():
            self._starting[name] = asyncio.create_task(self._bring_up(name))

    async def _started_and_admitted(self, name: str) -> None:
        began = time.monotonic()
        sampler = await self._start(name)
        self.came_up[name] = began, time.monotonic()
        self._admit(name, sampler)

    def _missing(self) -> list[str]:
        missing = max(0, self._wanted - len(self.staying) - len(self._starting))
        names = [f"sampler-{self._started + index}" for index in range(missing)]
        self._started += missing
        return names

    async def _bring_up(self, name: str) -> None:
        try:
            await self._started_and_admitted(name)
            self.changed.set()
        except PeerLostError as error:
            self.book(name, gist(error))
        except Exception as error:  # noqa: BLE001 (raised by the next `begin`)
            self._fault = error
            self.changed.set()
        finally:
            del self._starting[name]

    def _admit(self, name: str, sampler: Remote) -> None:
        self._live[name] = sampler
        self._watchers[name] = asyncio.create_task(self._watch(name, sampler))

    def lose(self, name: str, why: str) -> None:
        """Take a sampler out and end its process; does nothing for one already out.

        One that was leaving has left, whatever it died of.
        """
        sampler = self._live.pop(name, None)
        if sampler is None:
            return
        self._watchers.pop(name).cancel()
        sampler.kill()
        self._ended(name)
        if name in self.leaving:
            self.leaving.discard(name)
            self.left.append((name, why))
            self.joined.clear()
            self.changed.set()
        else:
            self.book(name, why)

    def leave(self, name: str) -> None:
        """Replace a sampler that is up and will soon be lost; `lose` is its end."""
        self.leaving.add(name)
        self._wanted = max(self._count, self._wanted - 1)
        self.changed.set()

    def book(self, name: str, why: str) -> None:
        """Count a sampler as lost that is in the pool no more, or never was."""
        self.lost.append((name, why))
        self._wanted = max(self._count, self._wanted - 1)
        self.joined.clear()
        self.changed.set()

    async def shutdown(self) -> None:
        """Stop every engine in order, then its process."""
        for task in (*self._watchers.values(), *self._starting.values()):
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        await end(list(self._live.values()))

    async def _watch(self, name: str, sampler: Remote) -> None:
        try:
            await sampler.watch()
        except PeerLostError as error:
            # From a callback, because `lose` cancels this very task.
            asyncio.get_running_loop().call_soon(self.lose, name, gist(error))


async def end(samplers: Sequence[Remote]) -> None:
    """Stop every engine in order, then its process."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SHUTDOWN_S):
            stops = (sampler.shutdown() for sampler in samplers)
            await asyncio.gather(*stops, return_exceptions=True)
    for sampler in samplers:
        sampler.kill()


_SHUTDOWN_S = 15.0


def gist(error: BaseException) -> str:
    """What is wrong, without Ray's paragraphs about it.

    Its first line, and for a failing constructor the last one too: there Ray puts the cause.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    created = "creation task" in lines[0]
    found = f"{lines[0]} {lines[-1]}" if created and len(lines) > 1 else lines[0]
    return found.removesuffix(".")  # it is always a part of another sentence
