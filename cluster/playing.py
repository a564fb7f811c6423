"""Evaluating a checkpoint: samplers and rollout workers, and no learner."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from actors.worker import EpisodeResult
from cluster.launch import start_ray
from cluster.samplers import SamplerPool
from cluster.topology import Topology
from wfr.config import Config
from wfr.evaluation.prediction import Prediction, PredictionFile
from wfr.tasks.registry import make_source

if TYPE_CHECKING:
    from cluster.remote import Remote


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """How a checkpoint plays each task.

    Attributes:
        label: name of the policy in predictions.
        samples: their numbers: 0 is the greedy one.
    """

    label: str
    temperature: float
    samples: tuple[int, ...]


def draws(label: str, samples: int, temperature: float) -> tuple[Draw, ...]:
    """Greedy, and as a policy of its own so many samples at a temperature."""
    greedy = Draw(label, 0.0, (0,))
    if not samples:
        return (greedy,)
    numbers = tuple(range(1, samples + 1))
    return greedy, Draw(f"{label} T={temperature:g}", temperature, numbers)


def play_checkpoint(
    config: Config,
    datasets: Mapping[str, Config],
    path: Path,
    wanted: tuple[Draw, ...],
    file: PredictionFile,
    work: Path,
    note: Callable[[str], None],
) -> None:
    """Play the checkpoint in `path` on every dataset; logs go to `work`."""
    todo = {
        dataset: _missing(settings, dataset, wanted, file) for dataset, settings in datasets.items()
    }
    if not any(todo.values()):
        note(f"{wanted[0].label}: nothing left to play")
        return
    model = config.model.model_copy(update={"path": str(path.resolve())})
    start_ray()
    try:
        player = _Player(config.model_copy(update={"model": model}), work, file, note)
        asyncio.run(player.play({d: (datasets[d], jobs) for d, jobs in todo.items() if jobs}))
    finally:
        ray.shutdown()


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """One episode: a held-out task by its index, and how it is sampled."""

    index: int
    label: str
    temperature: float
    sample: int


def _missing(
    config: Config, dataset: str, wanted: tuple[Draw, ...], file: PredictionFile
) -> list[_Job]:
    return [
        _Job(index, draw.label, draw.temperature, sample)
        for index, task in enumerate(make_source(config).held_out())
        for draw in wanted
        for sample in draw.samples
        if not file.scored((draw.label, dataset, task.id, sample))
    ]


class _Player:
    def __init__(
        self, config: Config, work: Path, file: PredictionFile, note: Callable[[str], None]
    ) -> None:
        (work / "logs").mkdir(parents=True, exist_ok=True)
        self._topology = Topology(config, work)
        self._pool = SamplerPool(
            config.sampler.count, self._topology.start_sampler, self._topology.placing.release
        )
        self._places = asyncio.Semaphore(config.evaluation.concurrency)
        self._file = file
        self._note = note

    async def play(self, todo: Mapping[str, tuple[Config, list[_Job]]]) -> None:
        try:
            await self._topology.find_director()
            await self._topology.placing.prepare(learner=False)
            await self._pool.refill()
            for dataset, (config, jobs) in todo.items():
                self._note(f"{dataset}: {jobs[0].label}: {len(jobs)} episodes to play")
                await self._topology.start_players(config.tasks)
                await self._topology.tell_workers(self._pool.live)
                workers = self._topology.workers
                async with asyncio.TaskGroup() as group:
                    for number, job in enumerate(jobs):
                        worker = workers[number % len(workers)]
                        group.create_task(self._one(worker, dataset, job))
        finally:
            await self._topology.shutdown()
            await self._pool.shutdown()

    async def _one(self, worker: Remote, dataset: str, job: _Job) -> None:
        async with self._places:
            result = await worker.play_held_out(job.index, job.temperature, job.sample)
        self._file.add(_prediction(result, dataset, job))


def _prediction(result: EpisodeResult, dataset: str, job: _Job) -> Prediction:
    return Prediction(
        policy=job.label,
        dataset=dataset,
        task_id=result.task_id,
        skill=result.skill,
        sample=job.sample,
        answer=result.answer,
        correct=result.reward_parts.get("correct"),
        stop_reason=result.stop_reason,
        turns=result.turns,
        tokens=result.tokens,
        seconds=result.seconds,
        cost_usd=result.cost_usd,
        metrics=dict(result.reward_parts),
        operators=dict(result.operators),
    )
