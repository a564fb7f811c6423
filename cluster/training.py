"""Training: the loop that everything else serves, and the publications beside it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from cluster.failures import RunFailedError
from cluster.fleet import Fleet
from cluster.gang import LearnerLostError, together
from cluster.refusals import Refusals
from cluster.resume import newest_state
from cluster.run_state import RunState
from cluster.samplers import gist
from cluster.usage import IdleMeter
from wfr.groups import Batch
from wfr.journal import Record
from wfr.phases import PhaseClock
from wfr.protocols import DataLostError, PeerLostError
from wfr.recovery import RecoveryError, journal_records, steps_since
from wfr.soundness import BatchRefusedError, Refusal


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step that is yet to be published; steps are numbered from 1."""

    number: int
    batch: Batch[Any]
    metrics: dict[str, float]

    @property
    def lags(self) -> list[int]:
        """Of each group, how many versions its oldest token is behind."""
        return [self.batch.version - entry.meta.oldest_version for entry in self.batch.groups]


Report = Callable[[Step, float, dict[str, float]], Awaitable[None]]
"""Told of each published step the seconds of its publication, and those of the loop by phase."""


class Training:
    """Turns batches into versions; a learner that is lost is started anew.

    Attributes:
        loop: what the training loop is doing.
    """

    def __init__(
        self,
        state: RunState,
        fleet: Fleet,
        report: Report,
        interrupts: Callable[[int], Sequence[Callable[[], Awaitable[Any]]]],
        checks: Sequence[Callable[[], None]],
        abandon: Callable[[], Awaitable[None]],
    ) -> None:
        """`interrupts` are what comes between a step and the next.

        `checks` raise what something beside training has failed with; `abandon` waits until
        nothing is written any more of what a lost learner held.
        """
        self._state = state
        self._fleet = fleet
        self._report = report
        self._interrupts = interrupts
        self._checks = checks
        self._abandon = abandon
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._taking: asyncio.Task[Batch[Any]] | None = None
        self._unpublished: deque[Batch[Any]] = deque()
        self._again: deque[Batch[Any]] = deque()
        self._refused: set[int] = set()
        self._refusals = Refusals(state.config.learner.max_refusals, state.record)
        self.loop = PhaseClock("other")

    async def train(self) -> None:
        """The loop that everything else serves."""
        self._state.progress.phase(f"training, max_lag {self._state.config.buffer.max_lag}")
        started, idle = time.monotonic(), IdleMeter()
        self.loop = PhaseClock("other")
        lost: LearnerLostError | None = None
        while True:
            try:
                if lost is not None:
                    await self.restart_learner(lost)
                await self._train_on()
                break
            except LearnerLostError as error:
                lost = error
        self._state.tally.rl_seconds = time.monotonic() - started
        self._state.tally.idle_shares = idle.read()

    async def _train_on(self) -> None:
        """Step after step from the first that is not published; raises LearnerLostError."""
        number = self._state.tally.steps + 1
        while number <= self._state.config.train.steps and not self._state.stop.is_set():
            batch = self._again.popleft() if self._again else await self._next_batch()
            if batch is None:
                break
            number += await self._step(number, batch)
            for check in self._checks:
                check()
        await self._settled()

    async def _next_batch(self) -> Batch[Any] | None:
        """The next batch, or nothing when the run is told to stop while it waits.

        Raises:
            LearnerLostError: while it waited; the batch that it waited for comes the next time.
        """
        started = time.monotonic()
        self.loop.enter("groups")
        if self._taking is None:
            self._taking = asyncio.create_task(self._state.topology.buffer.take())
        stopped = asyncio.create_task(self._state.stop.wait())
        lost = asyncio.create_task(self._state.learner_lost.wait())
        try:
            waiting = (self._taking, stopped, lost)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            lost.cancel()
            self.loop.enter("other")
            self._state.tally.learner_wait_seconds += time.monotonic() - started
        if not self._taking.done():
            if self._state.stop.is_set():
                self._taking.cancel()
                return None
            raise LearnerLostError("found while the run waited for a batch")
        batch, self._taking = self._taking.result(), None
        return batch

    async def _step(self, number: int, batch: Batch[Any]) -> bool:
        """Train on a batch; its publication may go on beside the next step.

        Returns whether a step was made of it.
        """
        started = time.monotonic()
        self._unpublished.append(batch)
        try:
            with self.loop.within("train"):
                async with self._fleet.resting():
                    results = await self._take_step(batch)
        except BatchRefusedError as error:
            self._unpublished.pop()
            await self._refuse(batch, error.refusals, stepped=False)
            return False
        if refused := results[0].pop("refused", ()):
            await self._refuse(batch, [Refusal(**each) for each in refused], stepped=True)
        else:
            self._refusals.none()
        self._state.tally.learner_step_seconds += time.monotonic() - started
        await self._settled()
        await together(self._state.topology.ranks, "hold")
        self._steps.put_nowait(Step(number, batch, results[0]))
        interrupts = self._interrupts(number)
        if interrupts or not self._state.config.overlaps_publishing:
            await self._settled()
        for interrupt in interrupts:
            await interrupt()
        return True

    async def _take_step(self, batch: Batch[Any]) -> list[Any]:
        """One optimizer step of all ranks; from the journal where a machine took groups with it.

        Raises:
            LearnerLostError: the gang cannot go on; or some ranks have got what others have not,
                and wait for them in a collective.
        """
        ranks = self._state.topology.ranks
        refs = [entry.ref[0] for entry in batch.groups]
        try:
            return await together(ranks, "step", batch.version, *refs)
        except DataLostError as error:
            self._state.progress.note("a machine took groups with it; the journal has them")
            found = await asyncio.to_thread(journal_records, self._state.directory.path)
            try:
                batch = batch.at({group: (record,) for group, record in found.items()})
            except KeyError as missing:
                raise RecoveryError(
                    f"{self._state.directory.path / 'journal'}: group {missing} has gone with its "
                    "machine and is not there; do all machines share run.dir?"
                ) from error
            self._unpublished[-1] = batch
            if len(ranks) > 1:
                raise LearnerLostError(gist(error)) from error
        return await together(ranks, "step", batch.version, *(e.ref[0] for e in batch.groups))

    async def _settled(self) -> None:
        """Wait until every step is published; raises LearnerLostError where that failed."""
        with self.loop.within("publish"):
            await self._steps.join()
        if self._state.learner_lost.is_set():
            raise LearnerLostError("found while weights were published")

    async def restart_learner(self, error: LearnerLostError) -> None:
        """Start all ranks anew and let them repeat what was published since the checkpoint.

        Samplers keep the weights that they have, and workers go on up to the lag bound. Batches
        that were taken and not published are trained on once more.
        """
        losses = self._state.budget.lose("learner")
        why = gist(error.__cause__ or error)
        if self._state.budget.spent("learner"):
            raise RunFailedError(
                f"the learner was lost {losses} times without a step "
                f"between, the last time because: {why}. See {self._state.logs}."
            ) from error
        self._state.progress.note(f"the learner is lost ({why}); all its ranks restart")
        self._state.tally.learner_restarts += 1
        restarts = {"learner/restarts": self._state.tally.learner_restarts}
        self._state.record("learner_lost", {"name": "learner", "why": why, **restarts})
        for rank in self._state.topology.ranks:
            rank.kill()
        await self._steps.join()
        await self._abandon()  # from here on no checkpoint appears, and none goes
        async with self._fleet.weights:
            self._fleet.forget()
            try:
                await self._state.topology.start_ranks()
            except PeerLostError as failed:
                raise LearnerLostError(gist(failed)) from failed
            async with self._fleet.asleep():
                await self._reload()
            self._state.learner_lost.clear()
            with self._fleet.blaming():
                await self._fleet.join()
        self._again.extendleft(reversed(self._unpublished))
        self._unpublished.clear()

    async def _reload(self) -> None:
        """Bring new ranks to the published version: the newest checkpoint, and the steps since."""
        checkpoint = newest_state(self._state.directory.path)
        await self._state.topology.buffer.force()
        await self._state.topology.load_learner(checkpoint=str(checkpoint) if checkpoint else None)
        batches = await asyncio.to_thread(
            steps_since,
            self._state.directory.path,
            max_lag=self._state.config.buffer.max_lag,
            shards=self._state.config.buffer.shards,
            checkpoint=int(checkpoint.name) if checkpoint else 0,
        )
        self._state.progress.phase(f"restarting the learner: {len(batches)} steps to repeat")
        await self.repeat(batches)
        self._state.progress.phase(f"training, max_lag {self._state.config.buffer.max_lag}")

    async def publish(self) -> None:
        """Publish step after step; none counts before its weights are in every live sampler."""
        while True:
            step = await self._steps.get()
            started = time.monotonic()
            try:
                await self._fleet.publish()
            except LearnerLostError:
                self._state.learner_lost.set()
                self._steps.task_done()
                continue
            version = step.batch.version + 1
            await self._state.topology.buffer.published(version, step.batch.batch_id)
            self._unpublished.popleft()
            seconds = time.monotonic() - started
            self._state.tally.steps = step.number
            self._state.tally.publish_seconds += seconds
            self._state.tally.max_lag_seen = max(self._state.tally.max_lag_seen, *step.lags)
            await self._report(step, seconds, self.loop.seconds())
            self._steps.task_done()

    async def _refuse(
        self, batch: Batch[Any], refusals: Sequence[Refusal], *, stepped: bool
    ) -> None:
        """Book the groups that could not be trained on; `stepped`: others could."""
        reasons = {int(refusal.group_id): refusal.reason for refusal in refusals}
        if stepped and reasons.keys() <= self._refused:
            return  # booked before the learner was lost
        self._refused |= reasons.keys()
        await self._state.topology.buffer.refuse(batch.batch_id, reasons, stepped=stepped)
        self._state.progress.note(self._refusals.add(batch.version, refusals))

    async def repeat(self, batches: Mapping[int, Batch[tuple[Record]]]) -> list[Step]:
        """Let the learner take published steps once more, on the same groups."""
        steps = []
        for version, batch in batches.items():
            records = (entry.ref[0] for entry in batch.groups)
            results = await together(self._state.topology.ranks, "step", version, *records)
            results[0].pop("refused", None)
            steps.append(Step(version + 1, batch, results[0]))
        return steps
