"""The rollout worker: hundreds of concurrent episodes in one event loop.

A worker asks the buffer for a slot, plays the G siblings of one task, journals the group before
anything may filter it, and hands it in. Operator latency holds neither a sampler nor a thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from actors.rollout import EpisodeId, Limits, RendererLike, Rollout
from actors.router import Router
from wfr.advantage import is_flat
from wfr.backends.spending import charged_to
from wfr.config import Config
from wfr.environments.base import Environment
from wfr.episode_counts import Counts, EpisodeCounts, Latencies
from wfr.groups import Admission, GroupMeta
from wfr.history import RETRY_S
from wfr.phases import PhaseSum
from wfr.protocols import Sample, SamplerLike, SamplingRequest
from wfr.schema import to_batch
from wfr.soundness import fault
from wfr.tasks.source import Task, TaskOrder
from wfr.trajectory import Group, StopReason, Trajectory
from wfr.turn_journal import GroupTurns, TurnJournal

T = TypeVar("T")


class BufferLike(Protocol):
    """What a worker needs of the replay buffer; see `wfr.buffer.ReplayBuffer`."""

    async def admit(self, worker: str) -> Admission:
        """Wait for a free slot."""
        ...

    async def add(self, group_id: int, ref: pa.RecordBatch, meta: GroupMeta) -> bool:
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
    tokens: int = 0
    seconds: float = 0.0
    cost_usd: float = 0.0
    operators: Mapping[str, int] = dataclasses.field(default_factory=dict)


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
        journal: Callable[[pa.RecordBatch, Mapping[str, Any]], None],
        turns: TurnJournal | None = None,
    ) -> None:
        """Play `tasks`; `journal` gets every finished group before the buffer does.

        `turns` keeps the turns of the others, and may hold some from before a restart.
        """
        self._config = config
        self._name = name
        self._tasks = tasks
        self._held_out = held_out
        self._order = TaskOrder(len(tasks), config.run.seed)
        self._make_environment = make_environment
        self._renderer = renderer
        self._journal = journal
        self._turns = turns
        self._disk = asyncio.Event()
        self._disk.set()
        self._router = Router(wait_s=_SAMPLER_WAIT_S)
        self._failures = _Failures(config.rollout.max_episode_failures)
        waits = config.buffer.incomplete_groups == "wait"
        self._retries = {
            False: math.inf if waits else config.rollout.episode_retries,
            True: math.inf if waits else config.supervision.episode_retries,
        }
        self._running: set[asyncio.Task[None]] = set()
        self._tokens_sampled = 0
        self._tokens_reported = 0
        self._spent = PhaseSum()
        self._counts = EpisodeCounts()

    def disk_full(self) -> bool:
        """Whether the journal waits for room; the worker asks for no slot meanwhile."""
        return not self._disk.is_set()

    def unreported_tokens(self) -> int:
        """Tokens sampled for training that no finished group accounts for (yet)."""
        return self._tokens_sampled - self._tokens_reported

    def time_spent(self) -> dict[str, float]:
        """Seconds by phase since the last call, summed over all episodes that are played at once.

        An episode waits for its sampler or for an operator, or does its own work; beside the
        episodes the worker waits for a slot of the buffer.
        """
        spent = self._spent.drain()
        return {phase: spent.get(phase, 0.0) for phase in ("slot", "sampler", "operator", "own")}

    def activity(self) -> dict[str, tuple[int, float]]:
        """By phase, how many episodes are in it now, and for how many seconds the longest."""
        return self._spent.now()

    def episode_counts(self) -> tuple[Counts, Latencies]:
        """How episodes of training ended since the last call, and what their operators took."""
        return self._counts.drain()

    def heard(self) -> set[str]:
        """The samplers that have answered since the last call."""
        return self._router.heard()

    def update_samplers(self, samplers: Mapping[str, SamplerLike]) -> None:
        """Tell the worker which samplers are alive."""
        self._router.update(samplers)

    async def run(self, buffer: BufferLike) -> None:
        """Play group after group until cancelled or the buffer closes.

        Raises:
            BufferClosedError: the buffer was closed; groups in flight are cut short.
            RepeatedFailureError: when episodes keep failing for one cause.
        """
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(group: asyncio.Task[None]) -> None:
            self._running.discard(group)
            if not group.cancelled() and (error := group.exception()) and not broken.done():
                broken.set_exception(error)

        try:
            while True:
                await self._disk.wait()
                with self._spent.clock("slot"):
                    admission = await self._next_admission(buffer, broken)
                group = asyncio.create_task(self._group(buffer, admission))
                self._running.add(group)
                group.add_done_callback(ended)
        finally:
            await _end((*self._running, broken))

    async def evaluate(
        self, share: int = 0, shares: int = 1, temperature: float = 0.0, spare: int | None = None
    ) -> list[EpisodeResult]:
        """Play this worker's share of the held-out tasks once, all concurrently.

        Nothing of it is trained on. Temperature 0 is greedy. With `spare` at most so many episodes
        are played at once, and samplers serve them after every training episode.
        """
        limits = self._limits(temperature)
        tasks = self._held_out[share::shares]
        places = asyncio.Semaphore(spare or max(1, len(tasks)))

        async def play(task: Task) -> Trajectory:
            episode = EpisodeId(self._config.run.name, f"{_EVALUATION}{task.id}", 0)
            async with places:
                return await self._episode(task, episode, limits, Counter(), last=bool(spare))

        played = await _together(map(play, tasks))
        return [_result(task, t) for task, t in zip(tasks, played, strict=True)]

    async def play_held_out(self, index: int, temperature: float, sample: int) -> EpisodeResult:
        """Play one held-out task; the seed fixes what sample number `sample` draws."""
        task = self._held_out[index]
        episode = EpisodeId(self._config.run.name, f"{_EVALUATION}{task.id}", sample)
        played = await self._episode(task, episode, self._limits(temperature), Counter())
        return _result(task, played)

    async def _next_admission(self, buffer: BufferLike, broken: asyncio.Future[None]) -> Admission:
        """Wait for a slot, but notice at once when a running group raises: in `broken`."""
        admission = asyncio.ensure_future(_as_coroutine(buffer.admit(self._name)))
        try:
            either: set[asyncio.Future[Any]] = {admission, broken}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                broken.result()
            return admission.result()
        finally:
            await _end([admission])

    async def _group(self, buffer: BufferLike, admission: Admission) -> None:
        task = self._tasks[self._order[admission.group_id]]
        group_id = str(admission.group_id)
        limits = self._limits(self._config.rollout.temperature)
        siblings = range(self._config.rollout.group_size)
        wasted: Counter[str] = Counter()
        turns = self._turns.group(admission.group_id) if self._turns else None
        self._tokens_sampled += turns.policy_tokens if turns else 0
        trajectories = await _together(
            self._episode(
                *(task, EpisodeId(self._config.run.name, group_id, sibling), limits, wasted, turns)
            )
            for sibling in siblings
        )
        group = Group(group_id, task.id, admission.version, trajectories)
        batch = to_batch(group)
        meta = group_meta(group, wasted, batch.nbytes)
        await self._keep(batch, meta)
        if turns is not None:
            turns.remove()
        self._tokens_reported += meta.policy_tokens + sum(meta.discarded.values())
        await buffer.add(admission.group_id, batch, meta)

    async def _keep(self, batch: pa.RecordBatch, meta: GroupMeta) -> None:
        """Journal a finished group; where the disk is full, wait for room, and admit no other."""
        while True:
            try:
                self._journal(batch, dataclasses.asdict(meta))
            except OSError:
                self._disk.clear()
                await asyncio.sleep(RETRY_S)
            else:
                self._disk.set()
                return

    async def _episode(
        self,
        task: Task,
        episode: EpisodeId,
        limits: Limits,
        wasted: Counter[str],
        turns: GroupTurns | None = None,
        *,
        last: bool = False,
    ) -> Trajectory:
        """Play one episode; one that the world failed transiently is played again.

        What the run's own infrastructure failed does not use up the retries of others.

        `last`: samplers serve it after all others. Policy tokens of attempts that are not kept are
        added to `wasted` by reason.
        """
        attempt = turns.attempt(episode.sibling) if turns else 0
        failed = Counter({False: attempt})  # by whether infrastructure did
        while True:
            key = dataclasses.replace(episode, attempt=attempt)
            try:
                with charged_to(task.source):
                    trajectory = _sound(await self._play(task, key, limits, turns, last=last))
            finally:
                self._router.release(str(key))
            attempt += 1
            training = not episode.group_id.startswith(_EVALUATION)
            if training:
                self._counts.note(trajectory)
            infrastructure = trajectory.stop_reason.is_infrastructure
            failed[infrastructure] += 1
            retry = trajectory.stop_reason.is_transient
            if not retry or failed[infrastructure] > self._retries[infrastructure]:
                self._failures.note(trajectory)
                return trajectory
            wasted[trajectory.stop_reason.value] += trajectory.policy_tokens
            if training:
                self._counts.retried(trajectory.stop_reason)

    async def _play(
        self,
        task: Task,
        episode: EpisodeId,
        limits: Limits,
        turns: GroupTurns | None,
        *,
        last: bool = False,
    ) -> Trajectory:
        training = not episode.group_id.startswith(_EVALUATION)
        priority = int(episode.group_id) if training else _AFTER_ALL if last else 0
        seeded = self._config.run.deterministic or not training

        async def sample(request: SamplingRequest) -> Sample:
            request = dataclasses.replace(request, priority=priority)
            if seeded and request.temperature > 0:
                place = f"{self._config.run.seed}/{episode}/{request.position}"
                request = dataclasses.replace(request, seed=zlib.crc32(place.encode()))
            sample = await self._router.sample(str(episode), request)
            if training:
                self._tokens_sampled += len(sample.tokens)
            return sample

        environment = self._make_environment()
        with self._spent.clock("own") as clock:
            rollout = Rollout(environment, self._renderer, sample, limits, turns, clock)
            return await rollout.run(task, episode)

    def _limits(self, temperature: float) -> Limits:
        environment = self._config.environment
        return Limits(
            self._config.model.max_length,
            environment.max_response_tokens,
            environment.max_turn_tokens,
            temperature,
            self._config.rollout.top_p,
            self._config.learner.max_tokens,
        )


_EVALUATION = "eval-"
_AFTER_ALL = 2**62
"""Priority of requests that are served when no group's are waiting."""
_SAMPLER_WAIT_S = 300.0  # a new engine needs up to a minute on a small machine


class _Failures:
    """Counts tasks in a row that the world failed for one cause, whatever numbers its text holds.

    Siblings of one task count once: they fail together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._cause: tuple[str, str] | None = None
        self._tasks: set[str] = set()

    def note(self, trajectory: Trajectory) -> None:
        if not trajectory.stop_reason.is_world_failure:
            self._cause, self._tasks = None, set()
            return
        last_line = trajectory.error.strip().rpartition("\n")[2]
        cause = (trajectory.stop_reason.value, _NUMBER.sub("#", last_line))
        if cause != self._cause:
            self._cause, self._tasks = cause, set()
        self._tasks.add(trajectory.task_id)
        if len(self._tasks) >= self._limit:
            raise RepeatedFailureError(
                f"{len(self._tasks)} tasks in a row failed with {cause[0]}: {last_line}\n"
                f"The last one in full:\n{trajectory.error}\n"
                "Nothing was scored. Mend the cause and start again, or raise "
                "rollout.max_episode_failures if such failures are expected."
            )


_NUMBER = re.compile(r"\d+")


async def _together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error ends the others too."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what is still running and wait until it has ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _as_coroutine(awaitable: Awaitable[Admission]) -> Admission:
    return await awaitable


def group_meta(group: Group, wasted: Mapping[str, int], size: int = 0) -> GroupMeta:
    """What the buffer needs to know of a group of `size` bytes.

    `wasted` are the policy tokens of attempts that were not kept, by reason.
    """
    scored = group.scored
    discarded = Counter(wasted)
    for trajectory in group.trajectories:
        if trajectory.stop_reason.is_world_failure:
            discarded[trajectory.stop_reason.value] += trajectory.policy_tokens
    return GroupMeta(
        siblings=len(group.trajectories),
        scored=len(scored),
        policy_tokens=sum(t.policy_tokens for t in scored),
        oldest_version=min((t.oldest_version for t in scored), default=group.admitted_version),
        discarded=dict(discarded),
        size=size,
        spread=float(np.std([t.reward for t in scored])) if scored else 0.0,
        flat=is_flat(np.array([t.reward for t in scored])),
    )


def _sound(trajectory: Trajectory) -> Trajectory:
    """The trajectory; a sampler that reports what is no log-probability has failed it."""
    trajectory.check_valid()
    error = "" if trajectory.stop_reason.is_world_failure else fault(trajectory)
    if not error:
        return trajectory
    return dataclasses.replace(
        trajectory,
        stop_reason=StopReason.SAMPLER_FAILED,
        reward=float("nan"),
        reward_parts={},
        error=error,
    )


def _result(task: Task, trajectory: Trajectory) -> EpisodeResult:
    return EpisodeResult(
        task.id,
        task.skill,
        trajectory.reward,
        trajectory.reward_parts,
        trajectory.stop_reason.value,
        len(trajectory.turns),
        trajectory.answer,
        trajectory.policy_tokens,
        trajectory.finished_at - trajectory.started_at,
        sum(call.cost_usd for call in trajectory.operator_calls),
        dict(Counter(call.operator for call in trajectory.operator_calls)),
    )
