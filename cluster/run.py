"""A run: who is started, in which order, and the loop that turns batches into versions.

Who waits for whom:

| loop           | takes          | gives                        | waits for          | woken by  |
|----------------|----------------|------------------------------|--------------------|-----------|
| rollout worker | a slot, a task | a group of scored siblings   | a free slot        | published |
| sampler        | token prompts  | tokens, log-probs, versions  | nothing            | requests  |
| buffer         | groups         | batches inside the lag bound | groups             | add       |
| training loop  | one batch      | version n+1                  | a full batch       | buffer    |
| publisher      | version n+1    | the same weights everywhere  | the optimizer step | training  |
| mender         | a lost sampler | a whole pool                 | a loss             | watchers  |

A slot is freed only when the step that used its group is in force in every sampler.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from actors.worker import RepeatedFailureError
from cluster.background import background
from cluster.evaluation import score
from cluster.executors import ExecutorWatch
from cluster.gang import LearnerLostError, together
from cluster.heartbeats import Heartbeats
from cluster.inquiry import inquire
from cluster.progress import Progress
from cluster.quarantine import Quarantine
from cluster.refusals import Refusals, RepeatedRefusalError
from cluster.resume import Resumption, newest_state, prune
from cluster.retries import LossBudget
from cluster.run_directory import RunDirectory
from cluster.samplers import SamplerPool, StartError, gist
from cluster.spare_evaluation import SpareEvaluations
from cluster.stalls import StallWatch
from cluster.summary import Tally, evaluations, tallied, tokens
from cluster.usage import IdleMeter, MemoryMeter
from cluster.waiting import chain, role_of, told, waits
from wfr.backends.base import BackendConfigError
from wfr.backends.status import executor_record
from wfr.best import Best, UnknownScoreError
from wfr.buffer import BufferClosedError
from wfr.compaction import compact
from wfr.config import Config
from wfr.episode_counts import EpisodeTotals
from wfr.groups import Batch
from wfr.journal import Record
from wfr.metrics import RunMetrics
from wfr.phases import PhaseClock
from wfr.protocols import PeerLostError, Publication, PublishError
from wfr.recovery import Recovery, RecoveryError, steps_since
from wfr.soundness import BatchRefusedError, Refusal

if TYPE_CHECKING:
    from cluster.remote import Remote
    from cluster.topology import Topology

T = TypeVar("T")


class RunFailedError(RuntimeError):
    """The run cannot go on; the text says why and what to do."""


class ProcessLostError(RunFailedError):
    """A process has died that nothing replaces in a run under way; a resumed run has new ones."""


class _StoppedError(Exception):
    """The run was told to stop before it began to train."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """An optimizer step that is yet to be published; steps are numbered from 1."""

    number: int
    batch: Batch[Any]
    metrics: dict[str, float]


class Run:
    """One run from director to summary."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        topology: Topology,
        progress: Progress,
        metrics: RunMetrics,
        resumption: Resumption | None = None,
    ) -> None:
        """Run `config` on the machines that `topology` places roles on, from its start or on."""
        self._config = config
        self._directory = directory
        self._topology = topology
        self._progress = progress
        self._metrics = metrics
        self._weights = asyncio.Lock()
        self._stop = asyncio.Event()
        self._tally = Tally()
        self._pool = SamplerPool(
            config.sampler.count, topology.start_sampler, topology.placing.release
        )
        self._version = 0
        self._joined: Mapping[str, Remote] | None = None
        self._steps: asyncio.Queue[_Step] = asyncio.Queue()
        self._resumption = resumption
        self._budget = LossBudget(
            {
                "sampler": config.sampler.count,
                "worker": config.rollout.workers,
                "learner": 1,  # its ranks are lost together
            },
            config.supervision.retries,
        )
        self._heartbeats = Heartbeats(
            config.supervision, self._supervised, self._silenced, self._record
        )
        self._stalls = StallWatch(config.supervision, time.monotonic)
        self._quarantine = Quarantine(config.supervision, time.monotonic)
        self._quarantines = 0
        topology.placing.keep_away(self._quarantine.closed)
        self._learner_lost = asyncio.Event()
        self._taking: asyncio.Task[Batch[Any]] | None = None
        self._unpublished: deque[Batch[Any]] = deque()
        self._again: deque[Batch[Any]] = deque()
        self._refused: set[int] = set()
        self._best = Best(config.best)
        self._spare = SpareEvaluations(self._play_spare, self._evaluated, progress.note)
        self._gave_up = ""
        self._refusals = Refusals(config.learner.max_refusals, self._record)
        self._paused = ""
        self._loop = PhaseClock("other")
        self._publishing = PhaseClock("steps")
        self._mending = PhaseClock("losses")
        self._worker_seconds: Counter[str] = Counter()
        self._episodes = EpisodeTotals()
        self._publish_phases: dict[str, float] = {}
        self._late: dict[str, list[asyncio.Future[Any]]] = {}

    def stop(self) -> None:
        """Finish the step under way, write a checkpoint, and end."""
        self._stop.set()

    async def execute(self) -> dict[str, Any]:
        """Everything; returns the summary that is also written to `summary.json`.

        Raises:
            RunFailedError: with the reason and the remedy.
        """
        started = time.monotonic()
        self._record(
            "run",
            {
                "buffer/max_lag": self._config.buffer.max_lag,
                "train/steps": self._config.train.steps,
                "executor/budget_usd": self._config.executor.budget.run.usd,
            },
        )
        memory = MemoryMeter()
        summary: dict[str, Any] = {"name": self._config.run.name, "status": "failed"}
        try:
            async with background(memory.watch()) as meter:
                outcome = await meter.race(self._phases())
            stopped = self._stop.is_set() and not self._gave_up
            summary |= {"status": "stopped" if stopped else "done", **outcome}
        except _StoppedError:
            summary["status"] = "stopped"
        except PeerLostError as error:
            summary["reason"] = (
                f"a process that the run cannot do without has died: {gist(error)} "
                f"See {self._directory.path / 'logs'}."
            )
            raise ProcessLostError(summary["reason"]) from error
        except ProcessLostError as error:
            summary["reason"] = str(error)
            raise
        except _ENDING as error:
            raise self._failed(summary, str(error)) from error
        finally:
            if self._paused and summary["status"] != "failed":
                summary |= {"status": "paused", "reason": f"{self._paused} is reached"}
            await self._shutdown()
            summary |= {
                "wall_seconds": round(time.monotonic() - started, 1),
                "max_lag": self._config.buffer.max_lag,
                **tallied(self._tally),
                "samplers_lost": [f"{name}: {why}" for name, why in self._pool.lost],
                "peak_memory_gib": round(memory.peak / 2**30, 2),
            }
            self._directory.write_json("summary.json", summary)
        return summary

    def _failed(self, summary: dict[str, Any], why: str) -> RunFailedError:
        summary["reason"] = why
        return RunFailedError(why)

    async def _phases(self) -> dict[str, Any]:
        await self._unless_stopped(self._start())
        self._executors = ExecutorWatch(self._topology.hub, self._progress.note, self._record)
        async with background(self._pause_when_spent()) as spending:
            return await spending.race(self._play())

    async def _pause_when_spent(self) -> None:
        """End the run in order when its budget for executors is spent."""
        self._paused = await self._executors.until_spent()
        self._progress.note(
            f"{self._paused} is reached: no further executor call is made, the run ends in order; "
            "raise it and resume to go on"
        )
        self._stop.set()

    async def _play(self) -> dict[str, Any]:
        before = self._resumption.evaluated if self._resumption else None
        if before is None:
            before = await self._unless_stopped(self._evaluate("before"))
        for evaluation in ({"version": 0, **before}, *self._earlier()):
            self._best.observe(evaluation)
        workers = [asyncio.create_task(coroutine) for coroutine in self._keep_workers()]
        self._stalls.stepped()
        beside = (
            *(self._mend(), self._publisher(), self._watch_disk()),
            *(self._heartbeats.watch(), self._watch_stalls()),
            *map(_result, workers),
        )
        async with background(*beside) as others:
            await others.race(self._train())
            await self._spare.end()
            await self._topology.buffer.close()
            await asyncio.wait(workers, timeout=_LAST_WORK_S)
        ledger = await self._topology.buffer.ledger()
        cut = await asyncio.gather(*(w.unreported_tokens() for w in self._topology.workers))
        scores = {}
        if not self._paused:  # an evaluation would ask executors
            after = await self._evaluate("after") if self._tally.steps else before
            scores = evaluations(before, after)
        await self._last_checkpoint()
        if scores and self._tally.steps:
            await self._prefer({"version": self._version, **after})
        used = executor_record(await self._executors.look(always=True))
        return {**scores, **self._chosen(), **tokens(ledger, sum(cut)), **used}

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Give up on `work` when the run is told to stop."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _StoppedError
            return task.result()
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _start(self) -> None:
        """Start every process; engines and imports come up while the tiny director warms up."""
        started = time.monotonic()
        self._progress.phase("starting")
        resumption = self._resumption
        await self._topology.find_director(resumed=resumption is not None)
        self._progress.phase(self._topology.starting)
        await self._topology.placing.prepare()
        _, _, director = await asyncio.gather(
            self._pool.refill(),
            self._topology.start_others(),
            self._topology.warm_director(self._progress),
        )
        self._tally.warmstart_seconds = time.monotonic() - started if director else 0.0
        checkpoint = resumption.checkpoint if resumption else None
        await self._topology.load_learner(checkpoint=str(checkpoint) if checkpoint else None)
        if resumption is not None:
            await self._catch_up(resumption.recovery)
        async with self._weights:
            await self._join()

    async def _catch_up(self, recovery: Recovery) -> None:
        """Repeat the steps since the checkpoint, and let the buffer go on where it was."""
        self._progress.phase(
            f"resuming at version {recovery.version}: {len(recovery.batches)} steps to repeat"
        )
        await self._repeat(recovery.batches)
        await self._topology.recover_buffer(recovery.shards)
        self._tally.steps = self._version = recovery.version
        self._record(
            "resumed",
            {
                "version": recovery.version,
                "checkpoint": recovery.checkpoint,
                "damaged": recovery.damaged,
            },
        )

    async def _repeat(self, batches: Mapping[int, Sequence[Record]]) -> None:
        """Let the learner take published steps once more, on the same groups."""
        for version, records in batches.items():
            await together(self._topology.ranks, "step", version, *records)

    async def _watch_disk(self) -> None:
        """Say when the disk is full and when there is room again, for as long as the run lasts."""
        full = False
        self._record("disk", {"disk/full": 0})
        while True:
            await asyncio.sleep(_WATCH_S)
            states = await asyncio.gather(
                *(worker.disk_full() for worker in self._topology.workers),
                self._topology.buffer.disk_full(),
                return_exceptions=True,
            )
            if any(state is True for state in states) != full:
                full = not full
                self._tell_disk(full=full, who="groups")

    def _tell_disk(self, *, full: bool, who: str) -> None:
        self._progress.note(
            f"THE DISK IS FULL: {who} wait for room under {self._directory.path}; nothing is lost"
            if full
            else f"there is room on the disk again: {who} go on"
        )
        with contextlib.suppress(OSError):
            self._record("disk", {"disk/full": int(full)})

    async def _train(self) -> None:
        """The loop that everything else serves."""
        self._progress.phase(f"training, max_lag {self._config.buffer.max_lag}")
        started, idle = time.monotonic(), IdleMeter()
        self._loop = PhaseClock("other")
        lost: LearnerLostError | None = None
        while True:
            try:
                if lost is not None:
                    await self._restart_learner(lost)
                await self._train_on()
                break
            except LearnerLostError as error:
                lost = error
        self._tally.rl_seconds = time.monotonic() - started
        self._tally.idle_shares = idle.read()

    async def _train_on(self) -> None:
        """Step after step from the first that is not published; raises LearnerLostError."""
        number = self._tally.steps + 1
        while number <= self._config.train.steps and not self._stop.is_set():
            batch = self._again.popleft() if self._again else await self._next_batch()
            if batch is None:
                break
            number += await self._step(number, batch)
            self._spare.check()
        await self._settled()

    async def _next_batch(self) -> Batch[Any] | None:
        """The next batch, or nothing when the run is told to stop while it waits.

        Raises:
            LearnerLostError: while it waited; the batch that it waited for comes the next time.
        """
        started = time.monotonic()
        self._loop.enter("groups")
        if self._taking is None:
            self._taking = asyncio.create_task(self._topology.buffer.take())
        stopped = asyncio.create_task(self._stop.wait())
        lost = asyncio.create_task(self._learner_lost.wait())
        try:
            waiting = (self._taking, stopped, lost)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            lost.cancel()
            self._loop.enter("other")
            self._tally.learner_wait_seconds += time.monotonic() - started
        if not self._taking.done():
            if self._stop.is_set():
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
        refs = [entry.ref[0] for entry in batch.groups]
        try:
            with self._loop.within("train"):
                results = await together(self._topology.ranks, "step", batch.version, *refs)
        except BatchRefusedError as error:
            self._unpublished.pop()
            await self._refuse(batch, error.refusals, stepped=False)
            return False
        if refused := results[0].pop("refused", ()):
            await self._refuse(batch, [Refusal(**each) for each in refused], stepped=True)
        else:
            self._refusals.none()
        self._tally.learner_step_seconds += time.monotonic() - started
        await self._settled()
        await together(self._topology.ranks, "hold")
        self._steps.put_nowait(_Step(number, batch, results[0]))
        interrupts = self._interrupts(number)
        if interrupts or not self._config.overlaps_publishing:
            await self._settled()
        for interrupt in interrupts:
            await interrupt()
        return True

    async def _settled(self) -> None:
        """Wait until every step is published; raises LearnerLostError where that failed."""
        with self._loop.within("publish"):
            await self._steps.join()
        if self._learner_lost.is_set():
            raise LearnerLostError("found while weights were published")

    async def _restart_learner(self, error: LearnerLostError) -> None:
        """Start all ranks anew and let them repeat what was published since the checkpoint.

        Samplers keep the weights that they have, and workers go on up to the lag bound. Batches
        that were taken and not published are trained on once more.
        """
        losses = self._budget.lose("learner")
        why = gist(error.__cause__ or error)
        if self._budget.spent("learner"):
            raise RunFailedError(
                f"the learner was lost {losses} times without a step "
                f"between, the last time because: {why}. See {self._directory.path / 'logs'}."
            ) from error
        self._progress.note(f"the learner is lost ({why}); all its ranks restart")
        self._tally.learner_restarts += 1
        restarts = {"learner/restarts": self._tally.learner_restarts}
        self._record("learner_lost", {"name": "learner", "why": why, **restarts})
        for rank in self._topology.ranks:
            rank.kill()
        await self._steps.join()
        async with self._weights:
            self._joined = None
            try:
                await self._topology.start_ranks()
            except PeerLostError as failed:
                raise LearnerLostError(gist(failed)) from failed
            await self._reload()
            self._learner_lost.clear()
            with self._blaming():
                await self._join()
        self._again.extendleft(reversed(self._unpublished))
        self._unpublished.clear()

    async def _reload(self) -> None:
        """Bring new ranks to the published version: the newest checkpoint, and the steps since."""
        checkpoint = newest_state(self._directory.path)
        await self._topology.buffer.force()
        await self._topology.load_learner(checkpoint=str(checkpoint) if checkpoint else None)
        batches = await asyncio.to_thread(
            steps_since,
            self._directory.path,
            max_lag=self._config.buffer.max_lag,
            shards=self._config.buffer.shards,
            checkpoint=int(checkpoint.name) if checkpoint else 0,
        )
        self._progress.phase(f"restarting the learner: {len(batches)} steps to repeat")
        await self._repeat(batches)
        self._progress.phase(f"training, max_lag {self._config.buffer.max_lag}")

    async def _publisher(self) -> None:
        """Publish step after step; none counts before its weights are in every live sampler."""
        while True:
            step = await self._steps.get()
            started = time.monotonic()
            try:
                await self._publish()
            except LearnerLostError:
                self._learner_lost.set()
                self._steps.task_done()
                continue
            version = step.batch.version + 1
            await self._topology.buffer.published(version, step.batch.batch_id)
            self._unpublished.popleft()
            seconds = time.monotonic() - started
            self._tally.steps = step.number
            self._tally.publish_seconds += seconds
            lags = [step.batch.version - entry.meta.oldest_version for entry in step.batch.groups]
            self._tally.max_lag_seen = max(self._tally.max_lag_seen, *lags)
            await self._report(step, lags, seconds)
            self._steps.task_done()

    async def _refuse(
        self, batch: Batch[Any], refusals: Sequence[Refusal], *, stepped: bool
    ) -> None:
        """Book the groups that could not be trained on; `stepped`: others could."""
        reasons = {int(refusal.group_id): refusal.reason for refusal in refusals}
        if stepped and reasons.keys() <= self._refused:
            return  # booked before the learner was lost
        self._refused |= reasons.keys()
        await self._topology.buffer.refuse(batch.batch_id, reasons, stepped=stepped)
        self._progress.note(self._refusals.add(batch.version, refusals))

    async def _publish(self) -> None:
        """Bring the learner's weights into every sampler; a lost sampler delays, never ends it."""
        while True:
            sent = False
            with self._publishing.within("weights"):
                await self._weights.acquire()
            try:
                with self._blaming(), self._publishing.within("samplers"):
                    if self._pool.live and not await self._join():
                        await self._send()
                    sent = bool(self._pool.live)
            finally:
                self._weights.release()
            if sent:
                return
            if not self._pool.live:
                with self._publishing.within("pool"):
                    await self._whole_pool()

    async def _whole_pool(self) -> None:
        """Wait for a whole pool; raises LearnerLostError if there is nobody who could join it."""
        whole = asyncio.create_task(self._pool.whole.wait())
        lost = asyncio.create_task(self._learner_lost.wait())
        try:
            await asyncio.wait((whole, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            whole.cancel()
            lost.cancel()
        if self._learner_lost.is_set():
            raise LearnerLostError("found while samplers were replaced")

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """Lose the samplers that make a publication inside the block fail."""
        try:
            yield
        except PublishError as error:
            self._blame(error)

    def _blame(self, error: PublishError) -> None:
        """Lose the samplers that made a publication fail: all where nobody knows which."""
        self._joined = None
        lost = error.lost or dict.fromkeys(self._pool.live, "was part of a failed weight update")
        self._progress.note(f"publishing failed, replacing {', '.join(lost)}: {gist(error)}")
        for name, why in lost.items():
            self._pool.lose(name, why)

    async def _send(self) -> None:
        """Publish in all joined samplers; one that fails when the others have it is lost alone."""
        publications: list[Publication] = await together(self._topology.ranks, "publish")
        self._version = publications[0].version
        self._publish_phases = dict(publications[0].seconds)
        for name, why in publications[0].lost.items():
            self._pool.lose(name, why)

    async def _join(self) -> bool:
        """Where other samplers live than before, connect them and give them the current weights.

        The caller holds the weights lock. Returns whether there was anything to do.
        """
        live = self._pool.live
        if live == self._joined:
            return False
        self._joined = None
        if live:
            await self._topology.connect(live)
            await self._send()
        self._joined = live
        await self._topology.tell_workers(self._pool.live)
        if len(self._pool.live) == self._config.sampler.count:
            self._pool.whole.set()
        return True

    async def _mend(self) -> None:
        """Replace lost samplers, for as long as the run lasts."""
        booked = 0
        while True:
            await self._pool.changed.wait()
            self._pool.changed.clear()
            name, why = self._pool.lost[-1]
            self._progress.note(f"{name} is lost ({why}); its episodes move on, a new one starts")
            lost = {"name": name, "why": why, "samplers/lost": len(self._pool.lost)}
            self._record("sampler_lost", lost)
            fresh = self._pool.lost[booked:]
            booked += len(fresh)
            for each, _ in fresh:
                self._book_loss(each)
            losses = self._budget.lose("sampler", max(1, len(fresh)))
            if self._budget.spent("sampler"):
                raise RunFailedError(
                    f"{losses} samplers were lost without a step between them, the "
                    f"last one because: {why}. See the logs of the samplers in "
                    f"{self._directory.path / 'logs'}."
                )
            await self._mend_once()

    async def _mend_once(self) -> None:
        try:
            await self._mend_join()
            with self._mending.within("starting"):
                await self._pool.refill()
            await self._mend_join()
        except StartError as error:
            for name, why in error.lost.items():
                self._pool.book(name, why)
        except LearnerLostError:
            self._learner_lost.set()  # whoever restarts it joins the samplers to it
        except (PublishError, PeerLostError) as error:
            if not isinstance(error, PublishError):
                error = PublishError(f"could not join: {gist(error)}")
            self._blame(error)
            self._pool.changed.set()  # brings us here again

    async def _mend_join(self) -> None:
        async with self._weights:
            with self._mending.within("joining"):
                await self._join()

    def _keep_workers(self) -> Iterable[Coroutine[Any, Any, None]]:
        return [self._keep_worker(index) for index in range(self._config.rollout.workers)]

    async def _keep_worker(self, index: int) -> None:
        """Run one worker; when it dies, free what it held and start another."""
        lost = False
        while True:
            try:
                if lost:
                    await self._topology.replace_worker(index, self._pool.live)
                await self._topology.workers[index].run(self._topology.buffer)
            except BufferClosedError:
                return
            except PeerLostError as error:
                lost = True
                name = f"worker-{index}"
                self._tally.worker_restarts += 1
                losses = self._budget.lose("worker")
                if self._budget.spent("worker"):
                    raise RunFailedError(
                        f"{losses} rollout workers were lost without a step between them, the last "
                        f"one because: {gist(error)}. See {self._directory.path / 'logs'}."
                    ) from error
                self._progress.note(f"{name} died; its groups are counted as lost work")
                values = {"name": name, "workers/restarts": self._tally.worker_restarts}
                self._record("worker_lost", values)
                self._book_loss(name)

    def _supervised(self) -> Mapping[str, Remote]:
        """Every process that is up, by name."""
        return {**self._topology.processes, **self._pool.live}

    def _silenced(self, name: str, why: str) -> None:
        """A process was ended because it was silent; Ray tells whoever waits for it."""
        self._progress.note(f"{name} {why}")
        if role_of(name) == "sampler":
            self._pool.lose(name, why)

    def _book_loss(self, name: str) -> None:
        """Remember on which machine a process was lost."""
        node = self._heartbeats.nodes.pop(name, None)
        if node is not None and self._quarantine.lose(node):
            seconds = self._config.supervision.quarantine_s
            self._progress.note(f"node {node} gets no new process for {seconds:g} s")
            self._quarantines += 1
            why = f"{name} was lost there, and others before"
            values = {"node": node, "why": why, "quarantine/count": self._quarantines}
            self._record("quarantine", values)

    async def _watch_stalls(self) -> None:
        """Say who holds the run up when it takes no step, for as long as it lasts.

        Raises:
            ProcessLostError: it has lasted for so long that all processes had better start anew.
        """
        while True:
            await asyncio.sleep(self._config.supervision.heartbeat_s)
            if self._stalls.due():
                await self._tell_stall()
            if self._stalls.hopeless:
                seconds = self._config.supervision.restart_s
                raise ProcessLostError(
                    f"no step for supervision.restart_s={seconds:g}: {await self._held_up()}."
                )

    async def _tell_stall(self) -> None:
        seconds, why = self._stalls.seconds, await self._held_up()
        self._progress.note(f"NO STEP FOR {seconds:.0f} s: {why}")
        values = {"why": why, "stall/seconds": seconds, "stall/count": self._stalls.count}
        self._record("stall", values)

    async def _held_up(self) -> str:
        """Who waits for whom, from the training loop to whoever holds the run up."""
        loops = {
            "loop": self._loop.current(),
            "publisher": self._publishing.current(),
            "mender": self._mending.current(),
        }
        silent = self._heartbeats.silence()
        return told(chain(waits(await inquire(self._topology, self._pool.live, loops, silent))))

    async def _evaluate(self, label: str) -> dict[str, Any]:
        self._progress.phase(f"evaluating {label} training, greedy, held-out tasks")
        shares = len(self._topology.workers)
        parts = await asyncio.gather(
            *(worker.evaluate(i, shares) for i, worker in enumerate(self._topology.workers))
        )
        result = score([episode for part in parts for episode in part])
        self._record("eval", {"version": self._version, **result})
        self._progress.evaluated(label, result)
        return result

    def _interrupts(self, number: int) -> list[Callable[[], Awaitable[Any]]]:
        """What comes between this step and the next: an evaluation, a checkpoint."""
        train = self._config.train
        due: list[Callable[[], Awaitable[Any]]] = []
        if number < train.steps:
            evaluate = train.eval_every and number % train.eval_every == 0
            kept = evaluate and self._config.best.score is not None
            if kept or (train.checkpoint_every and number % train.checkpoint_every == 0):
                due.append(self._checkpoint)
            if evaluate:
                due.append(self._evaluate_beside)
        return due

    def _earlier(self) -> Sequence[Mapping[str, Any]]:
        """Evaluations beside training of the run that is resumed."""
        return self._resumption.later if self._resumption else ()

    async def _evaluate_beside(self) -> None:
        self._spare.begin(self._version)

    async def _play_spare(self) -> dict[str, Any]:
        """Play the held-out tasks, behind all that is trained on."""
        workers = list(self._topology.workers)
        places = max(1, self._config.evaluation.concurrency // len(workers))
        parts = await asyncio.gather(
            *(worker.evaluate(i, len(workers), spare=places) for i, worker in enumerate(workers))
        )
        return score([episode for part in parts for episode in part])

    async def _evaluated(self, version: int, result: dict[str, Any]) -> None:
        """Book an evaluation beside training, which began at `version`."""
        evaluation = {"version": version, "last_version": self._version, **result}
        self._record("eval", evaluation)
        self._progress.evaluated(f"at version {version} of", result)
        await self._prefer(evaluation)
        if why := self._best.given_up:
            self._gave_up = why
            self._progress.note(f"ending early: {why}")
            self._stop.set()

    async def _prefer(self, evaluation: Mapping[str, Any]) -> None:
        """Let `checkpoints/best` be the best version's."""
        if self._best.observe(evaluation):
            await asyncio.to_thread(self._directory.prefer, self._best.version)

    def _chosen(self) -> dict[str, Any]:
        """What the summary says of the best version."""
        chosen: dict[str, Any] = {}
        if self._config.best.score is not None:
            chosen = {"best_version": self._best.version, "best_score": self._best.score}
        if self._gave_up:
            chosen["ended_early"] = self._gave_up
        return chosen | {"evaluations_left_out": self._spare.skipped}

    async def _last_checkpoint(self) -> None:
        """The checkpoint that ends the run, on new ranks if the old ones die over it."""
        try:
            await self._checkpoint()
        except LearnerLostError as error:
            await self._restart_learner(error)
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Write a checkpoint; it acknowledges every group of the steps before it."""
        target = self._directory.checkpoint(self._version)
        state = {"run": self._config.run.name, "steps": self._tally.steps}
        await self._topology.buffer.force()  # a checkpoint must not know more than the ledger
        await self._with_room(lambda: together(self._topology.ranks, "save", str(target), state))
        await asyncio.to_thread(self._acknowledge)
        self._progress.note(f"checkpoint {target}")

    async def _with_room(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Do `work`; where the disk is full, wait for room and do it again."""
        full = False
        while True:
            try:
                await work()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if not full:
                    self._tell_disk(full=True, who="checkpoints")
                full = True
                await asyncio.sleep(_WATCH_S)
            else:
                break
        if full:
            self._tell_disk(full=False, who="checkpoints")

    def _acknowledge(self) -> None:
        """What is older than the newest checkpoint is not needed to go on."""
        prune(self._directory.path, self._config.train.keep_states)
        if self._config.journal.compact == "acknowledged":
            compact(self._directory.path, self._config.buffer.max_lag, self._config.buffer.shards)

    async def _report(self, step: _Step, lags: list[int], publish_s: float) -> None:
        self._budget.stepped()
        if stalled := self._stalls.stepped():
            self._progress.note(f"a step again, after {stalled:.0f} s")
        buffer = self._topology.buffer
        ledger, slots, memory, spent, episodes = await asyncio.gather(
            *(buffer.ledger(), buffer.gauges(), buffer.memory()),
            *(self._worker_time(), self._episode_counts()),
        )
        values = {
            "step": step.number,
            "version": step.batch.version + 1,
            **step.metrics,
            "lag/max": max(lags),
            "lag/mean": sum(lags) / len(lags),
            "lag/histogram": dict(sorted(Counter(lags).items())),
            "publish/seconds": publish_s,
            "publish/phases": self._publish_phases,
            "wait/learner_seconds": self._tally.learner_wait_seconds,
            "seconds/training_loop": self._loop.seconds(),
            "seconds/workers": spent,
            **episodes,
            "tokens/generated": ledger.generated,
            "tokens/consumed": ledger.consumed,
            "tokens/discarded": dict(ledger.discarded),
            "tokens/waiting": ledger.waiting,
            "tokens/replayed": ledger.replayed,
            "buffer/resident_bytes": memory.resident,
            "buffer/spilled_bytes": memory.spilled,
            "buffer/spilled_groups": memory.spilled_groups,
            "buffer/spill_failures": memory.failures,
            "groups": [entry.group_id for entry in step.batch.entries],
            "groups/replayed": [entry.group_id for entry in step.batch.replayed],
            **{f"slots/{state}": count for state, count in slots.items() if state != "version"},
        }
        self._record("step", values)
        await self._executors.look(always=True)
        self._progress.step(values, self._config.train.steps)

    async def _worker_time(self) -> dict[str, float]:
        """Seconds that all workers together have spent, by phase; one that is lost counts later."""
        for seconds in await self._of_workers("time_spent"):
            self._worker_seconds.update(seconds)
        return dict(self._worker_seconds)

    async def _episode_counts(self) -> dict[str, Any]:
        """How all episodes of training ended so far, and what operators took lately."""
        for counts, latencies in await self._of_workers("episode_counts"):
            self._episodes.add(counts, latencies)
        return dict(self._episodes.record())

    async def _of_workers(self, method: str) -> list[Any]:
        """What the workers answer in time; a late answer counts at the next call."""
        asked = [asyncio.ensure_future(getattr(w, method)()) for w in self._topology.workers]
        asked += self._late.pop(method, [])
        await asyncio.wait(asked, timeout=_TIME_ANSWER_S)
        self._late[method] = [answer for answer in asked if not answer.done()]
        ended = [answer for answer in asked if answer.done()]
        return [answer.result() for answer in ended if answer.exception() is None]

    def _record(self, kind: str, values: Mapping[str, Any]) -> None:
        """The one way of a number into `metrics.jsonl` and to the exporter."""
        record = {"kind": kind, "time": time.time(), **values}
        self._directory.log(record)
        self._metrics.observe(record)
        self._progress.observe(record)

    async def _shutdown(self) -> None:
        self._progress.phase("shutting down")
        await self._pool.shutdown()
        await self._topology.shutdown()


_ENDING = (
    RunFailedError,
    RepeatedFailureError,
    PublishError,
    BackendConfigError,
    RepeatedRefusalError,
    UnknownScoreError,
    LearnerLostError,
    RecoveryError,
)
_WATCH_S = 5.0
_LAST_WORK_S = 10.0
_TIME_ANSWER_S = 1.0  # a report waits no longer for a worker that is busy or lost


async def _result(task: asyncio.Task[None]) -> None:
    await task
