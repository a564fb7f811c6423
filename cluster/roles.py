"""The roles as Ray hosts them: plain classes, built from the configuration inside their process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from actors.channel import Channel
from actors.listener import Endpoint, Listener
from actors.render import Renderer
from actors.sampler import Sampler
from actors.worker import RolloutWorker
from cluster.hand_over import HandOver, columns_of, pack
from cluster.heart import HEART, WRITING, Heart, end_children, node
from cluster.hub import RemoteHub
from cluster.logs import redirect
from cluster.nodes import address
from cluster.ports import free_port
from cluster.pulse import Pulse
from cluster.remote import Remote
from cluster.weights import RemoteSamplers
from wfr.config import Config
from wfr.environments.registry import make_factory
from wfr.journal import Journal, Record
from wfr.line_log import Sync
from wfr.protocols import Publication, TransferGroup
from wfr.spill import Spilled
from wfr.tasks.registry import make_source
from wfr.trained_logprobs import TrainedLogprobs
from wfr.turn_journal import TurnJournal

if TYPE_CHECKING:
    from learner.learner import Learner


class HostedSampler(Heart, Sampler):
    """A sampler that logs to the run directory."""

    def __init__(self, config: Config, name: str, *, run_dir: str, **settings: Any) -> None:
        """Start the engine; `settings` are those of `Sampler`."""
        redirect(Path(run_dir) / "logs", name)
        super().__init__(config, **settings)
        self._listener = Listener(self.sample, address())

    async def endpoint(self) -> Endpoint:
        """Where workers ask it for turns."""
        return await self._listener.endpoint()

    async def beat(self) -> Pulse:  # type: ignore[override]
        """Answer when the engine's own process has."""
        await self.ping()
        return Pulse(node())


class HostedLearner:
    """A learner rank; its heavy imports happen in its own process only."""

    _learner: Learner

    def __init__(self, config: Config, *, run_dir: str, rank: int) -> None:
        """Import what training needs; `load` does the rest."""
        redirect(Path(run_dir) / "logs", f"learner-{rank}")
        importlib.import_module("learner.learner")
        self._config = config
        self._run_dir = Path(run_dir)
        self._rank = rank

    @ray.method(concurrency_group=HEART)
    def beat(self) -> Pulse:
        """Answer beside a step that is under way."""
        return Pulse(node())

    @ray.method(concurrency_group=HEART)
    def end_children(self) -> None:
        """Kill what this process has started, beside a step that is under way."""
        end_children()

    def meeting(self) -> tuple[str, int]:
        """Address of this machine, and a port that is free on it now."""
        return address(), free_port()

    def load(
        self, model_path: str, init_method: str, version: int = 0, checkpoint: str | None = None
    ) -> None:
        """Load the director, as `version`, join the gang, and go on from a checkpoint if any."""
        from learner.learner import Learner

        self._refused = Journal(self._run_dir / "refused")
        self._learner = Learner(
            self._config,
            model_path,
            rank=self._rank,
            init_method=init_method,
            version=version,
            set_aside=self._refused.append,
            logprobs=TrainedLogprobs(self._run_dir, self._rank, self._config.learner.logprobs),
        )
        if checkpoint is not None:
            self._learner.restore(checkpoint)

    def step(self, version: int, *batches: pa.Buffer | Spilled | Record) -> dict[str, Any]:
        """Train on one batch."""
        return self._learner.step(version, *map(columns_of, batches))

    def connect(self, group: TransferGroup, client: RemoteSamplers) -> None:
        """(Re)build the weight-transfer group."""
        self._learner.connect(group, client)

    def hold(self) -> None:
        """Keep the weights until they are published."""
        self._learner.hold()

    def publish(self) -> Publication:
        """Send the current weights to every sampler; returns their version."""
        return self._learner.publish()

    def snapshot(self, state: dict[str, Any]) -> None:
        """Copy into memory what `write` writes."""
        self._learner.snapshot(state)

    @ray.method(concurrency_group=WRITING)
    def write(self, directory: str) -> None:
        """Write the last snapshot, beside steps and publications."""
        self._learner.write(directory)

    def save(self, target: str, state: dict[str, Any]) -> None:
        """Write a checkpoint."""
        self._learner.save(target, state)

    def close(self) -> None:
        """Leave the gang."""
        self._refused.close()
        self._learner.close()


class HostedWorker(Heart, RolloutWorker):
    """A rollout worker that journals to the run directory and hands batches over in Ray."""

    def __init__(
        self,
        config: Config,
        name: str,
        *,
        model_path: str,
        run_dir: str,
        hub: Remote,
    ) -> None:
        """Build tasks, environments and tokenizer."""
        redirect(Path(run_dir) / "logs", name)
        source = make_source(config)
        self._factory = make_factory(config, source, RemoteHub(hub), name)
        sync = Sync(config.journal.fsync, config.journal.fsync_interval_s)
        self._journal_files = Journal(
            Path(run_dir) / "journal" / name, config.journal.file_mib << 20, sync
        )
        super().__init__(
            config,
            name,
            tasks=source.train(),
            held_out=source.held_out(),
            make_environment=self._factory,
            renderer=Renderer(model_path),
            journal=self._journal_files.append,
            turns=TurnJournal(Path(run_dir) / "turns", sync),
        )
        self._offered: dict[int, pa.RecordBatch] = {}
        self._channels: dict[str, Channel] = {}

    def update_samplers(self, samplers: Mapping[str, Remote]) -> None:  # type: ignore[override]
        """Ask these samplers, each over a channel.

        One that leaves still answers what it was asked; its channel ends with it.
        """
        channels = {n: each for n, each in self._channels.items() if each.lost is None}
        new = {n: Channel(each) for n, each in samplers.items() if n not in channels}
        self._channels = {**channels, **new}
        super().update_samplers({name: self._channels[name] for name in samplers})

    async def beat(self) -> Pulse:  # type: ignore[override]
        """Answer, and name the samplers that have answered."""
        return Pulse(node(), self.heard())

    async def run(self, buffer: Any) -> None:
        """Play for `buffer`; see `RolloutWorker.run`."""
        me = ray.get_runtime_context().current_actor
        await super().run(HandOver(buffer, me, self._offered))

    async def hand_over(self, group_ids: Sequence[int]) -> tuple[Any, ...]:
        """Give finished groups to the buffer, which asks for them."""
        return pack(self._offered, group_ids)

    async def close(self) -> None:
        """End the sandbox's processes and the journal's file."""
        for channel in self._channels.values():
            channel.close()
        await self._factory.close()
        self._journal_files.close()


class HostedWarmstart:
    """The supervised start of the tiny director, in a process with its own threads."""

    def __init__(self, run_dir: str) -> None:
        """Start idle."""
        redirect(Path(run_dir) / "logs", "warmstart")
        self._done = (0, float("nan"))

    def blank(self, config: Config, out_dir: str) -> None:
        """Write the tiny director as it is before any training."""
        from learner import tiny

        tiny.save(*tiny.make(config), Path(out_dir))

    def run(self, config: Config, out_dir: str) -> Any:
        """Build and train; returns the result record."""
        from learner.warmstart import warmstart

        return warmstart(config, Path(out_dir), self._note)

    def progress(self) -> tuple[int, float]:
        """Steps done and the latest loss; answered while `run` is under way."""
        return self._done

    def _note(self, step: int, loss: float) -> None:
        self._done = (step, loss)
