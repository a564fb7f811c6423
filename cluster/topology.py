"""Where the roles run: their processes, their resources, and how they find each other.

One Ray actor per role instance. Samplers and learner ranks take GPUs where there are any; on a
machine without, they take no counted resource, because two cores have to carry all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.sampler import transfer_backend
from cluster.buffers import start_buffer
from cluster.director import follow, start_warmstart
from cluster.gang import together
from cluster.heart import HEART, WRITING
from cluster.hub import start_hub
from cluster.nodes import here
from cluster.placing import Placing
from cluster.processes import environment, named, ready
from cluster.progress import Progress
from cluster.remote import Remote, host
from cluster.reservations import Options
from cluster.roles import HostedLearner, HostedSampler, HostedWorker
from cluster.weights import RemoteSamplers
from wfr.config import Config
from wfr.protocols import PeerLostError, TransferGroup
from wfr.recovery import Shard
from wfr.shards import ShardedBuffer
from wfr.tasks_config import TasksConfig

if TYPE_CHECKING:
    from cluster.executor_serving import ServedExecutor


class Topology:
    """Starts, finds and ends the processes of one run."""

    def __init__(self, config: Config, run_dir: Path, placing: Placing | None = None) -> None:
        """Plan for `config`; nothing starts yet. Ray has to be initialised.

        `placing` is that of an earlier attempt, which has places already.
        """
        self._config = config
        self._run_dir = run_dir
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._device = "cuda" if resources.get("GPU", 0) >= 1 else "cpu"
        self._worker_starts = 0
        self._worker_names: dict[int, str] = {}
        self.model_path = ""
        self._warmstart: Remote | None = None
        self.workers: list[Remote] = []
        self.ranks: list[Remote] = []
        self.buffer: Remote | ShardedBuffer
        self.hub: Remote
        self._served: ServedExecutor | None = None
        self._up: dict[str, Remote] = {}
        self.placing = placing or Placing(config, gpu=self._device == "cuda")
        self._shards: list[Remote] = []

    @property
    def processes(self) -> Mapping[str, Remote]:
        """Every process but the samplers that has come up, by name."""
        return dict(self._up)

    @property
    def starting(self) -> str:
        """What the start-up is about, for people."""
        warms = self._warmstart is not None
        return "starting all processes" + (", warming up the tiny director" if warms else "")

    async def find_director(self, *, resumed: bool = False) -> None:
        """Find the director's checkpoint, or make a blank tiny one for the engines to start from.

        Engines get their weights from the learner before their first request, so the blank one
        serves them until the warm start is done.
        """
        if self._config.model.path is not None:
            self.model_path = str(Path(self._config.model.path).resolve())
            return
        if resumed:
            self.model_path = str(self._run_dir / "base")
            return
        self._warmstart = start_warmstart(self._config, self._run_dir)
        self.model_path = str(self._run_dir / "blank")
        await self._warmstart.blank(self._config, self.model_path)

    async def warm_director(self, progress: Progress) -> bool:
        """Warm-start the tiny director; returns whether there was one to warm."""
        if self._warmstart is None:
            return False
        base = self._run_dir / "base"
        progress.note(f"warm start: {await follow(self._warmstart, self._config, base, progress)}")
        self._warmstart.kill()
        self._warmstart = None
        self.model_path = str(base)
        return True

    async def load_learner(self, version: int = 0, checkpoint: str | None = None) -> None:
        """Let every rank load the director, as `version`, join, and go on from a checkpoint."""
        host, port = await self._meeting()
        meeting = f"tcp://{host}:{port}"
        await together(self.ranks, "load", self.model_path, meeting, version, checkpoint)

    async def _meeting(self) -> tuple[str, int]:
        """Address and free port of the machine of rank 0, where the others meet it."""
        (found,) = await together(self.ranks[:1], "meeting")
        return tuple(found)

    async def recover_buffer(self, shards: Sequence[Shard]) -> None:
        """Let every shard of the buffer go on after a restart."""
        calls = (b.recover(s) for b, s in zip(self._shards, shards, strict=True))
        await asyncio.gather(*calls)

    async def start_sampler(self, name: str) -> Remote:
        """Bring up one engine and warm it; it still has the director's first weights.

        Raises:
            PeerLostError: it died, or is not up within `supervision.start_s`.
        """
        try:
            return await self._start_sampler(name)
        except BaseException:
            self.placing.release(name)
            raise

    async def _start_sampler(self, name: str) -> Remote:
        place = await self.placing.sampler(name)
        options = self._options(place, threads=self._config.sampler.threads, max_concurrency=_MANY)
        sampler = host(
            HostedSampler,
            self._config,
            name,
            run_dir=str(self._run_dir),
            model_path=self.model_path,
            device=self._device,
            options=options,
        )
        await self._in_time(name, sampler, sampler.warm_up(_WARM_UP_TOKENS))
        return sampler

    async def start_ranks(self) -> None:
        """Start the learner's ranks, yet empty, in the place of any there were."""
        for rank in self.ranks:
            rank.kill()
        self.ranks = [self._start_rank(*each) for each in enumerate(await self.placing.gang())]
        await self._come_up(named("learner", self.ranks))

    async def start_others(self) -> None:
        """Start the buffer, the learner's ranks (yet empty) and the rollout workers at once."""
        await self._start_executors()
        shards = start_buffer(self._config, self._run_dir, self._options(here()))
        self._shards = shards
        self.buffer = shards[0] if len(shards) == 1 else ShardedBuffer(shards)
        self.ranks = [self._start_rank(*each) for each in enumerate(await self.placing.gang())]
        self.workers = [await self._start_worker(i) for i in range(self._config.rollout.workers)]
        await self._come_up(
            {
                **named("buffer", shards),
                **named("worker", self.workers),
                **named("learner", self.ranks),
                "executors": self.hub,
            }
        )

    async def start_players(self, tasks: TasksConfig) -> None:
        """Start rollout workers on these tasks, in place of earlier ones, and nothing to train."""
        if not self.workers:
            await self._start_executors()
        await asyncio.gather(*(worker.close() for worker in self.workers))
        for worker in self.workers:
            worker.kill()
        self._config = self._config.model_copy(update={"tasks": tasks})
        self.workers = [await self._start_worker(i) for i in range(self._config.rollout.workers)]
        await self._come_up(named("worker", self.workers))

    async def _start_executors(self) -> None:
        """Start the hub, and before it the model that the cluster itself serves, if there is one.

        Raises:
            BackendConfigError: the cache cannot be opened, or the model does not come up.
        """
        if self._config.executor.serve is not None:
            from cluster.executor_serving import ServedExecutor  # Ray Serve takes a while to import

            self._served = ServedExecutor(self._config.executor.serve, self._run_dir, self._device)
            executor = self._config.executor.served_at(await self._served.start())
            self._config = self._config.model_copy(update={"executor": executor})
        self.hub = start_hub(self._config, self._run_dir, self._options())
        await self.hub.status()

    async def connect(self, samplers: Mapping[str, Remote]) -> None:
        """(Re)build the weight-transfer group between learner rank 0 and `samplers`."""
        each = self._config.sampler.tensor_parallel
        timeout_s = self._config.sampler.update_timeout_s
        backend = transfer_backend(self._config, self._device)
        bucket_mib = self._config.weights.bucket_mib or _BUCKET_MIB[backend]
        address, port = await self._meeting()
        group = TransferGroup(
            backend=backend,
            host=address,
            port=self._config.weights.port or port,
            world_size=1 + len(samplers) * each,
            bucket_bytes=bucket_mib * 2**20,
            timeout_s=timeout_s,
        )
        client = RemoteSamplers(samplers, each, timeout_s)
        await together(self.ranks, "connect", group, client)

    async def tell_workers(self, samplers: Mapping[str, Remote]) -> None:
        """Tell every worker which samplers are alive."""
        calls = (worker.update_samplers(dict(samplers)) for worker in self.workers)
        await asyncio.gather(*calls, return_exceptions=True)  # a dead worker is replaced elsewhere

    async def bury_worker(self, index: int) -> None:
        """Free what a dead worker held in the buffer and the hub; PeerLostError is about these.

        It may only have been out of reach; then it is ended now, so that it plays no more.
        """
        self.workers[index].kill()
        await self.buffer.requeue(self._worker_names[index])
        await self.hub.forget(self._worker_names[index])

    async def replace_worker(self, index: int, samplers: Mapping[str, Remote]) -> None:
        """Start a worker in the place of one that was buried."""
        self.workers[index] = await self._start_worker(index)
        self._up.pop(f"worker-{index}", None)
        await self.workers[index].update_samplers(dict(samplers))
        self._up[f"worker-{index}"] = self.workers[index]

    async def shutdown(self, keep: Collection[str] = ()) -> None:
        """End every role but the samplers in order; whatever does not answer is killed.

        All places are given back but those of `keep`.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_S):
                closing = [role.close() for role in (*self.workers, *self.ranks)]
                await asyncio.gather(*closing, return_exceptions=True)
                if hasattr(self, "hub"):
                    await asyncio.gather(self.hub.close(), return_exceptions=True)
                if self._served is not None:
                    await self._served.close()
        hub = [self.hub] if hasattr(self, "hub") else []
        for role in (*self.workers, *self.ranks, *self._shards, *hub):
            role.kill()
        self.placing.close(keep)

    async def _come_up(self, processes: Mapping[str, Remote]) -> None:
        """Wait until all of them have; those that took their names before are gone."""
        for name in processes:
            self._up.pop(name, None)
        await asyncio.gather(*(self._in_time(n, p, ready(p)) for n, p in processes.items()))
        self._up |= processes

    async def _in_time(self, name: str, process: Remote, coming: Coroutine[Any, Any, Any]) -> None:
        """Wait until a process has come up; one that takes too long is ended."""
        limit = self._config.supervision.start_s
        try:
            async with asyncio.timeout(limit):
                await coming
        except TimeoutError:
            process.kill()
            raise PeerLostError(
                f"{name} was not up within supervision.start_s={limit:g}; is there a place for it? "
                "`ray status` shows what the cluster has left"
            ) from None

    async def _start_worker(self, index: int) -> Remote:
        """Start one worker, near a sampler if it can be."""
        place = await self.placing.worker(index)
        name = f"worker-{self._worker_starts}"
        self._worker_starts += 1
        self._worker_names[index] = name
        return host(
            HostedWorker,
            self._config,
            name,
            model_path=self.model_path,
            run_dir=str(self._run_dir),
            hub=self.hub,
            options=self._options(place, max_concurrency=_MANY),
        )

    def _start_rank(self, rank: int, place: Options) -> Remote:
        return host(
            HostedLearner,
            self._config,
            run_dir=str(self._run_dir),
            rank=rank,
            groups={HEART: 1, WRITING: 1},
            options=self._options(
                place,
                threads=self._config.learner.threads,
                max_concurrency=2 if self._config.overlaps_publishing else 1,
            ),
        )

    def _options(self, place: Options | None = None, *, threads: int = 1, **more: Any) -> Options:
        environ = {"env_vars": environment(threads)}
        return {"num_cpus": 0, "runtime_env": environ, **(place or {}), **more}


_WARM_UP_TOKENS = (0,) * 8
_SHUTDOWN_S = 15.0
_MANY = 10_000
"""Calls at once of a process in which calls wait: above them those that stop it have room."""
_BUCKET_MIB = {"nccl": 512, "gloo": 4}  # on CPU a bucket had better stay in the cache
