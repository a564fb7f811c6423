"""Evaluating policies that are programs: no engine, one event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

from wfr.backends.hub import HubLike
from wfr.config import Config
from wfr.environments.registry import EnvironmentFactory, make_factory
from wfr.evaluation.policies.base import Policies, Setting
from wfr.evaluation.policies.play import play
from wfr.evaluation.policies.registry import SEARCH, make_policies
from wfr.evaluation.policies.scripts import Script, policies
from wfr.evaluation.policies.search import search
from wfr.evaluation.prediction import Prediction, PredictionFile
from wfr.tasks.registry import make_source
from wfr.tasks.source import Task, TaskSource


async def evaluate_programs(
    config: Config,
    dataset: str,
    names: Sequence[str],
    file: PredictionFile,
    *,
    hub: HubLike | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Let each policy play the held-out tasks that `file` has no scored prediction for.

    Raises:
        PolicyError: a policy cannot play this configuration; nothing was played.
        BackendConfigError: no episode can be played with this executor.
    """
    source = make_source(config)
    factory = make_factory(config, source, hub, "evaluation")
    setting = dataclasses.replace(Setting.of(config), backend=factory.executors)
    made = {name: make_policies(name, setting) for name in names}
    evaluation = _Evaluation(config, dataset, factory)
    try:
        for name, found in made.items():
            todo = [
                task for task in source.held_out() if not file.scored((name, dataset, task.id, 0))
            ]
            note(f"{dataset}: {name}: {len(todo)} of {len(source.held_out())} tasks to play")
            if todo:
                ready = found or await evaluation.searched(setting, source, note)
                await evaluation.play(name, ready, todo, file.add)
    finally:
        await factory.close()


class _Evaluation:
    def __init__(self, config: Config, dataset: str, factory: EnvironmentFactory) -> None:
        self._config = config
        self._dataset = dataset
        self._factory = factory
        self._places = asyncio.Semaphore(config.evaluation.concurrency)

    async def play(
        self,
        name: str,
        ready: Policies,
        tasks: Sequence[Task],
        keep: Callable[[Prediction], None],
    ) -> None:
        """Play `tasks`, keeping each prediction as soon as it is there; an error ends the rest."""

        async def one(task: Task) -> None:
            keep(await self._one(name, ready, task))

        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(one(task))

    async def _one(self, name: str, ready: Policies, task: Task) -> Prediction:
        async with self._places:
            environment = self._factory()
            return await play(environment, ready, task, policy=name, dataset=self._dataset)

    async def searched(
        self, setting: Setting, source: TaskSource, note: Callable[[str], None]
    ) -> Policies:
        """Search on the training tasks; the held-out ones are never seen."""

        async def score(script: Script, task: Task) -> float | None:
            return (await self._one(SEARCH, policies(setting, script), task)).correct

        budget = self._config.evaluation.search_episodes
        found = await search(setting, score, source.train(), budget)
        note(
            f"{self._dataset}: search: {found.score:.3f} on training tasks, the best of "
            f"{found.tried} scripts in {found.episodes} episodes: {found.script}"
        )
        return policies(setting, found.script)
