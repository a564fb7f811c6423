"""The rollout worker: hundreds of concurrent episodes in one event loop.

A worker asks the buffer for a slot, plays the G siblings of one task, journals the group before
anything may filter it, and hands it in. Operator latency holds neither a sampler nor a thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
from wfr.buffer import Admission, GroupMeta
from wfr.schema import to_batch

from actors.rollout import EpisodeId, Limits, RendererLike, Rollout
from actors.router import Router
from wfr.config import Config
from wfr.environments.base import Environment
from wfr.protocols import SamplerLike
from wfr.tasks.source import Task, TaskOrder
from wfr.trajectory import Group, Trajectory


class BufferLike(Protocol):
    """What a worker needs of the replay buffer; see `wfr.buffer.ReplayBuffer`."""

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot."""
        ...

    async def add(self, group_id: int, ref: Any, meta: GroupMeta) -> None:
        """Hand in a finished group."""
        ...


class RepeatedFailureError(RuntimeError):
    """Episodes keep failing for one cause; going on would only burn time and money."""


@dataclasses.dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What an evaluation keeps of one episode."""

    task_id: str
    skill: str
    reward: float
    reward_parts: Mapping[str, float]
    stop_reason: str
    turns: int
    answer: str


class RolloutWorker:
    """Plays episodes. Plain class: `cluster` hosts it, tests await it."""

    def __init__(
        self,
        config: Config,
        name: str,
        *,
        tasks: Sequence[Task],
        held_out: Sequence[Task],
        make_environment: Callable[[], Environment],
        renderer: RendererLike,
        journal: Callable[[pa.RecordBatch], None],
        put: Callable[[pa.RecordBatch], Any] = lambda batch: batch,
        on_sampler_lost: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Play `tasks`; `put` stores a record batch and returns the reference that travels."""
        self._config = config
        self._name = name
        self._tasks = tasks
        self._held_out = held_out
        self._order = TaskOrder(len(tasks), config.run.seed)
        self._make_environment = make_environment
        self._renderer = renderer
        self._journal = journal
        self._put = put
        self._router = Router(wait_s=_SAMPLER_WAIT_S, on_lost=on_sampler_lost)
        self._failures = _Failures(config.rollout.max_episode_failures)
        self._running: set[asyncio.Task[None]] = set()

    def update_samplers(self, samplers: Mapping[str, SamplerLike]) -> None:
        """Tell the worker which samplers are alive."""
        self._router.update(samplers)

    async def run(self, buffer: BufferLike) -> None:
        """Play group after group until cancelled or the buffer closes.

        Raises:
            RepeatedFailureError: when episodes keep failing for one cause.
        """
        try:
            while True:
                admission = await self._next_admission(buffer)
                group = asyncio.create_task(self._group(buffer, admission))
                self._running.add(group)
        finally:
            for group in self._running:
                group.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def evaluate(self, temperature: float = 0.0) -> list[EpisodeResult]:
        """Play every held-out task once, all concurrently; nothing of it is trained on."""
        limits = self._limits(temperature)
        episodes = [
            self._episode(task, EpisodeId(self._config.run.name, f"eval-{index}", 0), limits)
            for index, task in enumerate(self._held_out)
        ]
        played = await asyncio.gather(*episodes)
        return [_result(task, t) for task, t in zip(self._held_out, played, strict=True)]

    async def _next_admission(self, buffer: BufferLike) -> Admission:
        """Wait for a slot, but notice at once when a running group raises."""
        admission = asyncio.ensure_future(_as_coroutine(buffer.admit(self._name)))
        while not admission.done():
            done, _ = await asyncio.wait(
                {admission, *self._running}, return_when=asyncio.FIRST_COMPLETED
            )
            for group in done & self._running:
                self._running.discard(group)
                if group.exception() is not None:
                    admission.cancel()
                    group.result()
        return admission.result()

    async def _group(self, buffer: BufferLike, admission: Admission) -> None:
        task = self._tasks[self._order[admission.group_id]]
        group_id = str(admission.group_id)
        limits = self._limits(self._config.rollout.temperature)
        siblings = range(self._config.rollout.group_size)
        trajectories = await asyncio.gather(
            *(
                self._episode(task, EpisodeId(self._config.run.name, group_id, sibling), limits)
                for sibling in siblings
            )
        )
        group = Group(group_id, task.id, admission.version, trajectories)
        batch = to_batch(group)
        self._journal(batch)
        await buffer.add(admission.group_id, self._put(batch), GroupMeta.of(group))

    async def _episode(self, task: Task, episode: EpisodeId, limits: Limits) -> Trajectory:
        """Play one episode; one that the world failed transiently is played again."""
        attempt = 0
        while True:
            key = dataclasses.replace(episode, attempt=attempt)
            try:
                trajectory = await self._play(task, key, limits)
            finally:
                self._router.release(str(key))
            self._failures.note(trajectory)
            attempt += 1
            retry = trajectory.stop_reason.is_transient
            if not retry or attempt > self._config.rollout.episode_retries:
                return trajectory

    def _play(self, task: Task, episode: EpisodeId, limits: Limits) -> Awaitable[Trajectory]:
        rollout = Rollout(
            self._make_environment(),
            self._renderer,
            lambda request: self._router.sample(str(episode), request),
            limits,
        )
        return rollout.run(task, episode)

    def _limits(self, temperature: float) -> Limits:
        environment = self._config.environment
        return Limits(
            self._config.model.max_length,
            environment.max_response_tokens,
            environment.max_turn_tokens,
            temperature,
            self._config.rollout.top_p,
        )


_SAMPLER_WAIT_S = 300.0  # a new engine needs up to a minute on a small machine


class _Failures:
    """Counts world failures in a row that share one cause."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._cause: tuple[str, str] | None = None
        self._count = 0

    def note(self, trajectory: Trajectory) -> None:
        if not trajectory.stop_reason.is_world_failure:
            self._cause, self._count = None, 0
            return
        last_line = trajectory.error.strip().rpartition("\n")[2]
        cause = (trajectory.stop_reason.value, last_line)
        self._count = self._count + 1 if cause == self._cause else 1
        self._cause = cause
        if self._count >= self._limit:
            raise RepeatedFailureError(
                f"{self._count} episodes in a row failed with {cause[0]}: {last_line}\n"
                f"The last one in full:\n{trajectory.error}\n"
                "Nothing was scored. Mend the cause and start again, or raise "
                "rollout.max_episode_failures if such failures are expected."
            )


async def _as_coroutine(awaitable: Awaitable[Admission]) -> Admission:
    return await awaitable


def _result(task: Task, trajectory: Trajectory) -> EpisodeResult:
    return EpisodeResult(
        task.id,
        task.skill,
        trajectory.reward,
        trajectory.reward_parts,
        trajectory.stop_reason.value,
        len(trajectory.turns),
        trajectory.answer,
    )
