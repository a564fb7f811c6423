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
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from actors.worker import RepeatedFailureError
from cluster.background import background
from cluster.crew import Crew
from cluster.elastic import Elastic
from cluster.evaluating import Evaluating
from cluster.executors import ExecutorWatch
from cluster.failures import HubLostError, ProcessLostError, RunFailedError
from cluster.fleet import Fleet
from cluster.gang import LearnerLostError
from cluster.progress import Progress
from cluster.refusals import RepeatedRefusalError
from cluster.resume import Resumption
from cluster.run_directory import RunDirectory
from cluster.run_state import RunState
from cluster.samplers import gist
from cluster.saving import Saving
from cluster.step_report import StepReport
from cluster.summary import evaluations, tallied, tokens
from cluster.supervision import Supervision
from cluster.survivors import Survivors
from cluster.training import Step, Training
from cluster.usage import MemoryMeter
from cluster.waiting import Phase
from wfr.backends.base import BackendConfigError
from wfr.backends.status import executor_record
from wfr.best import UnknownScoreError
from wfr.config import Config
from wfr.metrics import RunMetrics
from wfr.protocols import PeerLostError, PublishError
from wfr.recovery import RecoveryError

if TYPE_CHECKING:
    from cluster.topology import Topology

T = TypeVar("T")


class _StoppedError(Exception):
    """The run was told to stop before it began to train."""


class Run:
    """One run from director to summary: who is started when, and what runs beside what."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        topology: Topology,
        progress: Progress,
        metrics: RunMetrics,
        resumption: Resumption | None = None,
        survivors: Survivors | None = None,
    ) -> None:
        """Run `config` on the machines that `topology` places roles on, from its start or on.

        `survivors` are samplers of an attempt or run before, and later those of this one, should it
        start anew or another run follow.
        """
        self._config = config
        self._topology = topology
        self._progress = progress
        self._resumption = resumption
        self._survivors = survivors
        self._hands_on = False
        self._paused = ""
        self._state = RunState(config, directory, topology, progress, metrics)
        self._supervision = Supervision(self._state, self._loops)
        self._fleet = Fleet(self._state, self._supervision.book_loss)
        self._elastic = Elastic(self._state, self._fleet, self._supervision.node)
        self._crew = Crew(self._state, self._fleet, self._supervision.book_loss)
        self._saving = Saving(self._state, lambda: self._evaluating.undecided)
        self._evaluating = Evaluating(self._state, self._saving.written)
        self._write = StepReport(self._state, self._fleet, self._crew)
        self._training = Training(
            *(self._state, self._fleet, self._report),
            interrupts=self._interrupts,
            checks=(self._evaluating.spare.check, self._saving.check),
            abandon=self._saving.abandon,
        )

    def stop(self) -> None:
        """Finish the step under way, write a checkpoint, and end."""
        self._state.stop.set()

    async def execute(self) -> dict[str, Any]:
        """Everything; returns the summary that is also written to `summary.json`.

        Raises:
            RunFailedError: with the reason and the remedy.
        """
        started = time.monotonic()
        self._state.record(
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
            stopped = self._state.stop.is_set() and not self._evaluating.gave_up
            summary |= {"status": "stopped" if stopped else "done", **outcome}
            self._hands_on = not stopped and self._survivors is not None and self._survivors.lasting
        except _StoppedError:
            summary["status"] = "stopped"
        except (PeerLostError, HubLostError, LearnerLostError) as error:
            summary["reason"] = (
                f"a process that the run cannot do without has died: {gist(error)}. "
                f"See {self._state.logs}."
            )
            self._hands_on = True
            raise ProcessLostError(summary["reason"]) from error
        except ProcessLostError as error:
            summary["reason"] = str(error)
            raise
        except _ENDING as error:
            summary["reason"] = str(error)
            raise RunFailedError(str(error)) from error
        finally:
            if self._paused and summary["status"] != "failed":
                summary |= {"status": "paused", "reason": f"{self._paused} is reached"}
            await self._shutdown()
            summary |= {
                "wall_seconds": round(time.monotonic() - started, 1),
                "max_lag": self._config.buffer.max_lag,
                **tallied(self._state.tally),
                "samplers_lost": [f"{name}: {why}" for name, why in self._state.pool.lost],
                "samplers_left": [f"{name}: {why}" for name, why in self._state.pool.left],
                "peak_memory_gib": round(memory.peak / 2**30, 2),
            }
            self._state.directory.write_json("summary.json", summary)
        return summary

    async def _phases(self) -> dict[str, Any]:
        await self._unless_stopped(self._start())
        self._executors = ExecutorWatch(self._topology.hub, self._progress.note, self._state.record)
        async with background(self._pause_when_spent()) as spending:
            return await spending.race(self._play())

    async def _pause_when_spent(self) -> None:
        """End the run in order when its budget for executors is spent."""
        self._paused = await self._executors.until_spent()
        self._progress.note(
            f"{self._paused} is reached: no further executor call is made, the run ends in order; "
            "raise it and resume to go on"
        )
        self._state.stop.set()

    async def _play(self) -> dict[str, Any]:
        before = self._resumption.evaluated if self._resumption else None
        if before is None:
            before = await self._unless_stopped(self._evaluating.evaluate("before"))
        later = self._resumption.later if self._resumption else ()
        self._evaluating.observe(({"version": 0, **before}, *later))
        workers = [asyncio.create_task(coroutine) for coroutine in self._crew.keep()]
        beside = (
            *(self._fleet.mend(), self._training.publish(), self._saving.watch_disk()),
            *(*self._supervision.watch(), self._elastic.watch()),
            *map(_result, workers),
        )
        async with background(*beside) as others:
            await others.race(self._training.train())
            await self._evaluating.spare.end()
            await self._topology.buffer.close()
            await asyncio.wait(workers, timeout=_LAST_WORK_S)
        ledger = await self._topology.buffer.ledger()
        cut = await asyncio.gather(*(w.unreported_tokens() for w in self._topology.workers))
        await self._last_checkpoint()
        scores = {}
        if not self._paused:  # an evaluation would ask executors
            after = await self._evaluating.evaluate("after") if self._state.tally.steps else before
            scores = evaluations(before, after)
        if scores and self._state.tally.steps:
            await self._evaluating.prefer({"version": self._state.version, **after})
        used = executor_record(await self._executors.look(always=True))
        return {**scores, **self._evaluating.chosen(), **tokens(ledger, sum(cut)), **used}

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Give up on `work` when the run is told to stop."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._state.stop.wait())
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
        if self._survivors is not None:
            self._adopt(self._survivors)
        await self._topology.placing.prepare()
        director = await self._start_processes()
        self._state.tally.warmstart_seconds = time.monotonic() - started if director else 0.0
        checkpoint = resumption.checkpoint if resumption else None
        await self._topology.load_learner(checkpoint=str(checkpoint) if checkpoint else None)
        if resumption is not None:
            await self._catch_up(resumption)
        await self._fleet.assemble()

    def _adopt(self, survivors: Survivors) -> None:
        """Take over the samplers that are up."""
        self._state.pool.adopt(survivors.take())
        names, logs = ", ".join(self._state.pool.live), self._state.logs
        if names and survivors.logs not in ("", logs):
            self._progress.note(f"still up, and logging to {survivors.logs}: {names}")

    async def _start_processes(self) -> bool:
        """Start all at once; returns whether a director was warmed up meanwhile."""
        engines = asyncio.ensure_future(self._fleet.fill())
        others = asyncio.gather(
            self._topology.start_others(), self._topology.warm_director(self._progress)
        )
        both: set[asyncio.Future[Any]] = {engines, others}
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            if others in done and isinstance(others.exception(), PeerLostError):
                await asyncio.wait({engines})  # the next attempt takes them over
            for each in (others, engines):
                if each.done():
                    each.result()
            return others.result()[1]
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _catch_up(self, resumption: Resumption) -> None:
        """Repeat the steps since the checkpoint, and let the buffer go on where it was.

        A step that was published and not yet reported when the run died is reported now.
        """
        recovery = resumption.recovery
        self._progress.phase(
            f"resuming at version {recovery.version}: {len(recovery.batches)} steps to repeat"
        )
        async with self._fleet.resting():
            steps = await self._training.repeat(recovery.batches)
        await self._topology.recover_buffer(recovery.shards)
        self._state.tally.steps = self._state.version = recovery.version
        for step in steps:
            if step.number > resumption.reported:  # how long it took, nobody knows any more
                await self._write(step, 0.0, self._training.loop.seconds())
        self._state.record(
            "resumed",
            {
                "version": recovery.version,
                "checkpoint": recovery.checkpoint,
                "damaged": recovery.damaged,
            },
        )

    def _interrupts(self, number: int) -> list[Callable[[], Awaitable[Any]]]:
        """What comes between this step and the next: an evaluation, a checkpoint."""
        train = self._config.train
        due: list[Callable[[], Awaitable[Any]]] = []
        if number < train.steps:
            evaluate = train.eval_every and number % train.eval_every == 0
            kept = evaluate and self._config.best.score is not None
            if kept or (train.checkpoint_every and number % train.checkpoint_every == 0):
                due.append(self._saving.checkpoint)
            if evaluate:
                due.append(self._evaluating.beside)
        return due

    async def _last_checkpoint(self) -> None:
        """The checkpoint that ends the run, on new ranks if the old ones die over it.

        None where the run has gone on from that very one, and has nothing to add.
        """
        if self._resumption and self._resumption.recovery.checkpoint == self._state.version:
            return
        try:
            await self._saving.last()
        except LearnerLostError as error:
            await self._training.restart_learner(error)
            await self._saving.last()

    async def _shutdown(self) -> None:
        self._progress.phase("shutting down")
        await self._saving.end()
        kept: Collection[str] = ()
        if self._survivors is not None:
            samplers = self._state.pool.hand_over() if self._hands_on else {}
            limit_s = self._config.supervision.silent_s
            await self._survivors.keep(samplers, self._topology.placing, limit_s, self._state.logs)
            kept = self._survivors.samplers.keys()
        await self._state.pool.shutdown()
        await self._topology.shutdown(keep=kept)

    def _loops(self) -> Mapping[str, Phase]:
        """What the run's own loops are doing."""
        return {
            "loop": self._training.loop.current(),
            "publisher": self._fleet.publishing.current(),
            "mender": self._fleet.mending.current(),
        }

    async def _report(self, step: Step, publish_s: float, loop: dict[str, float]) -> None:
        self._supervision.stepped()
        await self._write(step, publish_s, loop)
        await self._executors.look(always=True)


_ENDING = (
    RunFailedError,
    RepeatedFailureError,
    PublishError,
    BackendConfigError,
    RepeatedRefusalError,
    UnknownScoreError,
    RecoveryError,
)
_LAST_WORK_S = 10.0


async def _result(task: asyncio.Task[None]) -> None:
    await task
