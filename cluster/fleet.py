"""The fleet: the samplers of a run, joined to the learner, kept whole and at one version."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from cluster.failures import RunFailedError
from cluster.gang import LearnerLostError, together
from cluster.run_state import RunState
from cluster.samplers import StartError, gist
from wfr.phases import PhaseClock
from wfr.protocols import PeerLostError, Publication, PublishError

if TYPE_CHECKING:
    from cluster.remote import Remote


class Fleet:
    """Brings versions into every sampler, and replaces those that are lost.

    Attributes:
        weights: held by whoever connects samplers or sends weights.
        phases: what each phase of the last publication took, in seconds.
        publishing: what the publisher is doing.
        mending: what the mender is doing.
    """

    def __init__(self, state: RunState, book_loss: Callable[[str], None]) -> None:
        """`book_loss` is told the name of each sampler that was lost."""
        self._state = state
        self._book_loss = book_loss
        self._joined: Mapping[str, Remote] | None = None
        self._noted = 0  # of the losses in the pool
        self.weights = asyncio.Lock()
        self.phases: dict[str, float] = {}
        self.publishing = PhaseClock("steps")
        self.mending = PhaseClock("losses")

    @property
    def joined(self) -> Mapping[str, Remote]:
        """The samplers that stay and have the current weights: the only ones workers may ask."""
        staying = self._state.pool.staying
        return {name: each for name, each in (self._joined or {}).items() if name in staying}

    def forget(self) -> None:
        """Nobody is joined: the learner has new ranks. The caller holds `weights`."""
        self._joined = None

    async def publish(self) -> None:
        """Bring the learner's weights into every sampler; a lost sampler delays, never ends it."""
        while True:
            sent = False
            with self.publishing.within("weights"):
                await self.weights.acquire()
            try:
                with self.blaming(), self.publishing.within("samplers"):
                    if self._state.pool.live and not await self.join():
                        await self._send()
                    sent = bool(self._state.pool.live)
            finally:
                self.weights.release()
            if sent:
                return
            if not self._state.pool.live:
                with self.publishing.within("pool"):
                    await self._until_joined()

    @contextlib.asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Where samplers are colocated they sleep inside the block, and no weights are sent."""
        if not self._state.config.sampler.colocated:
            yield
            return
        async with self.weights, self.asleep():
            yield

    @contextlib.asynccontextmanager
    async def asleep(self) -> AsyncIterator[None]:
        """Where samplers are colocated they sleep inside the block. The caller holds `weights`."""
        if not self._state.config.sampler.colocated:
            yield
            return
        try:
            await self._all("doze")
            yield
        finally:
            await self._all("wake")

    async def _all(self, method: str) -> None:
        """Call a method of every sampler; of one that is dead others learn by themselves."""
        calls = (getattr(sampler, method)() for sampler in self._state.pool.live.values())
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, PeerLostError):
                raise result

    async def _until_joined(self) -> None:
        """Wait until a sampler has joined; raises LearnerLostError if there is nobody to join."""
        joined = asyncio.create_task(self._state.pool.joined.wait())
        lost = asyncio.create_task(self._state.learner_lost.wait())
        try:
            await asyncio.wait((joined, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            joined.cancel()
            lost.cancel()
        if self._state.learner_lost.is_set():
            raise LearnerLostError("found while samplers were replaced")

    @contextlib.contextmanager
    def blaming(self) -> Iterator[None]:
        """Lose the samplers that make a publication inside the block fail."""
        try:
            yield
        except PublishError as error:
            self._blame(error)

    def _blame(self, error: PublishError) -> None:
        """Lose the samplers that made a publication fail: all where nobody knows which."""
        self._joined = None
        lost = error.lost or dict.fromkeys(
            self._state.pool.live, "was part of a failed weight update"
        )
        self._state.progress.note(f"publishing failed, replacing {', '.join(lost)}: {gist(error)}")
        for name, why in lost.items():
            self._state.pool.lose(name, why)

    async def _send(self) -> None:
        """Publish in all joined samplers; one that fails when the others have it is lost alone."""
        publications: list[Publication] = await together(self._state.topology.ranks, "publish")
        self._state.version = publications[0].version
        self.phases = dict(publications[0].seconds)
        for name, why in publications[0].lost.items():
            self._state.pool.lose(name, why)

    async def join(self) -> bool:
        """Where other samplers live than before, connect them and give them the current weights.

        The caller holds the weights lock. Returns whether there was anything to do.
        """
        live = self._state.pool.live
        if live == self._joined:
            return False
        self._joined = None
        if live:
            await self._state.topology.connect(live)
            await self._send()
        self._joined = live
        await self._state.topology.tell_workers(self.joined)
        if self.joined:
            self._state.pool.joined.set()
        self._tell_joined(live)
        return True

    def _tell_joined(self, live: Iterable[str]) -> None:
        """Say who may be asked from now on, once."""
        pool = self._state.pool
        for name in live:
            if name in pool.came_up:
                began, up = pool.came_up.pop(name)
                start_s, join_s = up - began, time.monotonic() - up
                self._state.progress.note(
                    f"{name} has joined (its engine was up after {start_s:.0f} s,"
                    f" joining took {join_s:.1f})"
                )
                values = {"sampler/start_seconds": start_s, "sampler/join_seconds": join_s}
                self._state.record("sampler_joined", {"name": name, **values})

    async def fill(self) -> None:
        """Start what is missing, and once more whatever does not come up.

        Raises:
            RunFailedError: the budget of losses is spent.
        """
        pool = self._state.pool
        while True:
            try:
                await pool.refill()
            except StartError as error:
                for name, why in error.lost.items():
                    pool.book(name, why)
                self._spend(self._note_losses())
            else:
                return

    async def assemble(self) -> None:
        """Join all samplers for the first time; where one is lost over it, its place is refilled.

        Raises:
            PublishError: they could not be joined twice, although none of them was lost.
            RunFailedError: the budget of losses is spent.
        """
        pool, again = self._state.pool, False
        while True:
            known = len(pool.lost)
            try:
                async with self.weights:
                    await self.join()
            except PublishError as error:
                if error.lost or len(pool.lost) > known:
                    self._blame(error)
                elif again and not pool.adopted:
                    raise
                elif again:  # it may be due to what they have been through
                    pool.adopted = False
                    self._blame(error)
                else:  # one may have been cut off for a moment
                    self._state.progress.note(f"{gist(error)}; trying once more")
                    again = True
                    continue
            if self.joined:
                return
            self._spend(self._note_losses())
            await self.fill()

    async def see_off(self, name: str, why: str, grace_s: float, limit_s: float) -> None:
        """Let a sampler leave: its episodes move on, with what has been sampled of their turns.

        Its successor is being started already. Workers ask others before anything is cut off, and
        the weight-transfer group loses it between two publications.

        Args:
            name: of the sampler, which is up.
            why: for the books.
            grace_s: seconds for turns that are being sampled to end by themselves.
            limit_s: seconds after which it is ended whatever holds it up; its machine is going.
        """
        pool = self._state.pool
        sampler = pool.live[name]
        pool.leave(name)
        try:
            async with asyncio.timeout(limit_s):
                await self._state.topology.tell_workers(self.joined)
                await sampler.leave(grace_s)
                async with self.weights:
                    pool.lose(name, why)
        except (TimeoutError, PeerLostError) as error:
            pool.lose(name, f"{why}; {gist(error)}")

    async def mend(self) -> None:
        """Replace lost samplers, for as long as the run lasts; each joins as soon as it is up.

        Raises:
            RunFailedError: the budget of losses is spent.
        """
        failed = False
        pool = self._state.pool
        while True:
            self.mending.enter("starting" if pool.starting else "losses")
            await pool.changed.wait()
            pool.changed.clear()
            self._spend(self._note_losses() or failed)
            pool.begin()
            failed = await self._mend_join()

    def _note_losses(self) -> int:
        """Say which samplers were lost since the last call; returns how many."""
        fresh = self._state.pool.lost[self._noted :]
        self._noted += len(fresh)
        for name, why in fresh:
            note = f"{name} is lost ({why}); its episodes move on, a new one starts"
            self._state.progress.note(note)
            self._book_loss(name)
        return len(fresh)

    def _spend(self, losses: int) -> None:
        """Book losses, of which one may be that nobody knows who made joining fail."""
        if not losses:
            return
        name, why = self._state.pool.lost[-1]
        values = {"name": name, "why": why, "samplers/lost": len(self._state.pool.lost)}
        self._state.record("sampler_lost", values)
        total = self._state.budget.lose("sampler", losses)
        if self._state.budget.spent("sampler"):
            raise RunFailedError(
                f"{total} samplers were lost without a step between them, the last one because: "
                f"{why}. See the logs of the samplers in {self._state.logs}."
            )

    async def _mend_join(self) -> bool:
        """Join who is up; returns whether that failed, and is to be tried again."""
        try:
            async with self.weights:
                self.mending.enter("joining")
                await self.join()
        except LearnerLostError:
            self._state.learner_lost.set()  # whoever restarts it joins the samplers to it
        except (PublishError, PeerLostError) as error:
            if not isinstance(error, PublishError):
                error = PublishError(f"could not join: {gist(error)}")
            self._blame(error)
            self._state.pool.changed.set()  # brings us here again
            return True
        return False
