"""A simulated cluster: the run's real loops over fakes behind real actors.

Real are Ray, the rollout workers with their routers and journals, the replay buffer, and of a run
the fleet, the pool of samplers, the training loop, and supervision. Fake are the engines, the
learner and the environment (`benchmarks.simulated_roles`, `wfr.testing_roles`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry

from benchmarks.simulated_roles import (
    GROUP,
    Caller,
    HostedSimulatedLearner,
    SamplerHost,
    Scale,
    Seat,
    SeatedSampler,
    SimulatedWorker,
)
from cluster.background import background
from cluster.buffers import start_buffer
from cluster.crew import Crew
from cluster.elastic import Elastic
from cluster.fleet import Fleet
from cluster.heart import HEART
from cluster.nodes import here
from cluster.processes import named
from cluster.progress import Progress
from cluster.remote import Remote, host
from cluster.run_directory import RunDirectory
from cluster.run_state import RunState
from cluster.samplers import SamplerPool
from cluster.step_report import StepReport
from cluster.supervision import Supervision
from cluster.topology import Topology
from cluster.training import Training
from wfr.config import Config
from wfr.metrics import RunMetrics


class SimulatedTopology(Topology):
    """Starts fakes where a run starts engines and ranks."""

    def __init__(self, config: Config, run_dir: Path, scale: Scale) -> None:
        """Plan; nothing starts yet."""
        super().__init__(config, run_dir)
        self._scale = scale
        self._hosts: list[Remote] = []
        self._seats = 0

    async def start_all(self) -> None:
        """Start every process."""
        many = self._options(max_concurrency=_MANY)
        count = self._scale.sampler_processes
        self._hosts = [host(SamplerHost, self._scale, options=many) for _ in range(count)]
        shards = start_buffer(self._config, self._run_dir, self._options(here()))
        self._shards, self.buffer = shards, shards[0]
        self.ranks = [
            host(
                HostedSimulatedLearner,
                self._scale.step_s,
                groups={HEART: 1},
                options=self._options(max_concurrency=2),
            )
        ]
        self.workers = [
            host(
                SimulatedWorker,
                self._config,
                f"worker-{index}",
                scale=self._scale,
                run_dir=str(self._run_dir),
                options=many,
            )
            for index in range(self._config.rollout.workers)
        ]
        started = {"buffer": shards, "worker": self.workers, "learner": self.ranks}
        for role, processes in (*started.items(), ("host", self._hosts)):
            await self._come_up(named(role, processes))
        for index in range(count):
            del self._up[f"host-{index}"]  # its samplers are supervised, each by itself

    async def _start_sampler(self, name: str) -> Remote:
        actor = self._hosts[self._seats % len(self._hosts)]
        self._seats += 1
        await actor.open(name)
        return SeatedSampler(Seat(actor.handle, name))

    async def shutdown(self, keep: Collection[str] = ()) -> None:
        """End every process, at once."""
        for process in (*self._hosts, *self._shards, *self.ranks, *self.workers):
            process.kill()
        self.placing.close(keep)


_MANY = 100_000


class FewerSamplers(SamplerPool):
    """A pool of which only the first `shown` samplers count for anybody; the others idle."""

    shown: int | None = None

    @property
    def live(self) -> Mapping[str, Remote]:
        """Those that count."""
        return dict(itertools.islice(super().live.items(), self.shown))


class Simulation:
    """A run on the simulated cluster; supervision and samplers may change while it goes on."""

    hosted: type[SimulatedTopology] = SimulatedTopology

    def __init__(self, name: str, directory: Path, scale: Scale, **sections: Any) -> None:
        """Plan; `running` starts it. `sections` are further ones of the configuration."""
        config = scale.config(name, directory, **sections)
        self.scale = scale
        self._directory = RunDirectory(config)
        self.topology = self.hosted(config, self._directory.path, scale)
        metrics = RunMetrics(CollectorRegistry())
        self.state = RunState(config, self._directory, self.topology, Progress(quiet=True), metrics)
        self.state.pool = self._pool = FewerSamplers(
            scale.samplers, self.topology.start_sampler, self.topology.placing.release
        )
        self.supervision = Supervision(self.state, self._loops)
        self.fleet = Fleet(self.state, self.supervision.book_loss)
        self.elastic = Elastic(self.state, self.fleet, self.supervision.node)
        self.crew = Crew(self.state, self.fleet, self.supervision.book_loss)
        self.training = Training(
            self.state,
            self.fleet,
            StepReport(self.state, self.fleet, self.crew),
            interrupts=lambda number: (),
            checks=(),
            abandon=_nothing,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._callers: list[Remote] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything is up inside the block, and the episodes wait for their operators."""
        try:
            await self.topology.start_all()
            await self.state.pool.refill()
            async with self.fleet.weights:
                await self.fleet.join()
            loops = (self.training.train(), self.training.publish(), self.fleet.mend())
            self._tasks = [asyncio.create_task(c) for c in (*loops, *self.crew.keep())]
            await self.settle()
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for caller in self._callers:
                caller.kill()
            await self.state.pool.shutdown()
            await self.topology.shutdown()
            self._directory.close()

    @contextlib.asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        """Heartbeats, the stall watch and the look for machines go on inside the block."""
        async with background(*self.supervision.watch(), self.elastic.watch()):
            yield

    async def show(self, samplers: int) -> None:
        """Go on with the first so many samplers, joined to the learner; episodes move."""
        self._pool.shown = samplers
        async with self.fleet.weights:
            await self.fleet.join()

    async def settle(self) -> None:
        """Wait until every slot is taken and every episode waits for an operator."""
        while True:
            self.check()
            slots = await self.topology.buffer.gauges()
            waiting = (await self.activity()).get("operator", 0)
            if not slots["free"] and waiting >= 0.95 * GROUP * slots["in_flight"]:
                return
            await asyncio.sleep(0.5)

    def check(self) -> None:
        """Raise what one of the run's loops has failed with; none ends by itself."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise RuntimeError(f"{task} has ended")

    async def activity(self) -> dict[str, int]:
        """Episodes by what they wait for."""
        found: dict[str, int] = {}
        for each in await asyncio.gather(*(w.activity() for w in self.topology.workers)):
            for phase, (count, _) in each.items():
                found[phase] = found.get(phase, 0) + count
        return found

    async def pace(self, rate: float) -> None:
        """Offer so many turns per second, first turns of new episodes among them."""
        share = rate * (1 - 1 / self.scale.turns) / len(self.topology.workers)
        await asyncio.gather(*(worker.pace(share) for worker in self.topology.workers))

    async def bare(self, rate: float, seconds: float) -> list[float]:
        """Call the samplers so often without anything around it; what was added to each call."""
        if not self._callers:
            samplers = list(self._pool.live.values())
            self._callers = [
                host(Caller, self.scale, samplers, seed, options={"num_cpus": 0})
                for seed in range(self.scale.worker_processes)
            ]
        share = rate / len(self._callers)
        found = await asyncio.gather(*(each.play(share, seconds) for each in self._callers))
        return [added for each in found for added in each]

    async def drain(self) -> tuple[int, list[float]]:
        """Turns since the last call, and the seconds that were added to them."""
        self.check()
        found = await asyncio.gather(*(worker.drain() for worker in self.topology.workers))
        return sum(turns for turns, _ in found), [a for _, added in found for a in added]

    def _loops(self) -> Mapping[str, Any]:
        return {
            "loop": self.training.loop.current(),
            "publisher": self.fleet.publishing.current(),
            "mender": self.fleet.mending.current(),
        }


async def _nothing() -> None:
    """A simulated learner writes no checkpoint."""


def cpu_seconds() -> float:
    """Processor seconds so far of this process and all that it has started."""
    me = psutil.Process()
    times = (each.cpu_times() for each in (me, *me.children(recursive=True)))
    return float(sum(spent.user + spent.system for spent in times))
