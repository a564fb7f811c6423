"""The roles as Ray hosts them: plain classes, built from the configuration inside their process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.render import Renderer
from actors.worker import RolloutWorker
from wfr.buffer import GroupMeta, ReplayBuffer
from wfr.config import Config
from wfr.environments.registry import make_factory
from wfr.journal import Journal
from wfr.tasks.registry import make_source


class HostedWorker(RolloutWorker):
    """A rollout worker that journals to the run directory and stores batches in Ray."""

    def __init__(
        self,
        config: Config,
        name: str,
        *,
        journal_name: str,
        model_path: str,
        run_dir: str,
    ) -> None:
        """Build tasks, environments and tokenizer."""
        source = make_source(config)
        self._factory = make_factory(config, source)
        self._journal_files = Journal(Path(run_dir) / "journal" / journal_name)
        super().__init__(
            config,
            name,
            tasks=source.train(),
            held_out=source.held_out(),
            make_environment=self._factory,
            renderer=Renderer(model_path),
            journal=self._journal_files.append,
        )

    async def close(self) -> None:
        """End the sandbox's processes and the journal's file."""
        await self._factory.close()
        self._journal_files.close()


class HostedBuffer(ReplayBuffer[tuple[Any]]):
    """The replay buffer over Ray's object store.

    It stores the batches itself, because Ray frees an object with the process that put it: a group
    has to survive its worker. A reference is kept in a tuple, because Ray resolves bare ones.
    """

    async def add(self, group_id: int, ref: Any, meta: GroupMeta) -> bool:
        """Hand in a record batch."""
        return await super().add(group_id, (ray.put(ref),), meta)


class HostedWarmstart:
    """The supervised start of the tiny director, in a process with its own threads."""

    def __init__(self) -> None:
        """Start idle."""
        self._done = (0, float("nan"))

    def run(self, config: Config, out_dir: str) -> Any:
        """Build and train; returns the result record."""
        from learner.warmstart import warmstart

        return warmstart(config, Path(out_dir), self._note)

    def progress(self) -> tuple[int, float]:
        """Steps done and the latest loss; answered while `run` is under way."""
        return self._done

    def _note(self, step: int, loss: float) -> None:
        self._done = (step, loss)
