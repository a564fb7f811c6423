"""The roles of a simulated cluster as Ray hosts them: fakes, and real workers over fakes.

Several fake samplers live in one process, because hundreds of processes need more memory than a
small machine has. Each has a handle of its own all the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import random
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.listener import Listener
from actors.worker import RolloutWorker
from cluster.background import background
from cluster.hand_over import columns_of
from cluster.heart import HEART, Heart, node
from cluster.nodes import address
from cluster.pulse import Pulse
from cluster.remote import Remote
from cluster.roles import HostedWorker
from wfr.config import Config, parse_config
from wfr.journal import Journal
from wfr.line_log import Sync
from wfr.protocols import Publication, SamplingRequest, TransferGroup
from wfr.tasks.source import Task
from wfr.testing import FakeRenderer
from wfr.testing_roles import PacedEnvironment, Pacer, SimulatedLearner, SimulatedSampler
from wfr.turn_journal import TurnJournal


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How large the simulated cluster is, and on how many processes.

    Attributes:
        samplers: handles that routers, supervisor and publisher see.
        episodes: about how many are under way at once.
        groups_per_batch: groups of 8 episodes that make a step.
        turns: of each episode.
        sampler_s: seconds that a sampler takes for a turn.
        step_s: seconds that the learner takes for a step.
        turn: tokens that a turn has.
        prompt: tokens of the prompt.
        observation: tokens of what answers a turn.
        sampler_processes: processes that the samplers share.
        worker_processes: rollout workers.
    """

    samplers: int
    episodes: int = 20_000
    groups_per_batch: int = 64
    turns: int = 5
    sampler_s: float = 2.0
    step_s: float = 1.0
    turn: int = 100
    prompt: int = 400
    observation: int = 300
    sampler_processes: int = 2
    worker_processes: int = 2

    @property
    def max_lag(self) -> int:
        """Enough slots for the episodes, with one batch finished or taken on top."""
        return -(-self.episodes // (GROUP * self.groups_per_batch))

    def period(self, rate: float) -> float:
        """Seconds from batch to batch, where so many turns come through per second."""
        return self.groups_per_batch * GROUP * self.turns / rate

    def config(self, name: str, directory: Path, **sections: Any) -> Config:
        """The configuration of a run of this size, with other `sections` besides."""
        length = self.prompt + self.turns * (self.turn + self.observation)
        return parse_config(
            {
                "run": {"name": name, "dir": str(directory)},
                "model": {"max_length": length},
                "sampler": {"count": self.samplers},
                "rollout": {"workers": self.worker_processes, "group_size": GROUP},
                "buffer": {
                    "max_lag": self.max_lag,
                    "window": self.max_lag + 1,
                    "memory_mib": 128,
                },
                "learner": {"max_tokens": length, "minibatches": 1},
                "train": {"groups_per_batch": self.groups_per_batch, "steps": 10_000},
                **sections,
            }
        )


GROUP = 8


class SamplerHost(Heart):
    """Hosts many fake samplers; `call` reaches one of them."""

    def __init__(self, scale: Scale) -> None:
        """Host none yet."""
        self._scale = scale
        self._samplers: dict[str, SimulatedSampler] = {}
        self._listeners: dict[str, Listener] = {}

    async def open(self, name: str) -> None:
        """Start one more."""
        sampler = SimulatedSampler(self._scale.sampler_s, self._scale.turn)
        self._samplers[name] = sampler
        self._listeners[name] = Listener(sampler.sample, address())

    async def call(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of one of them."""
        if method == "beat":
            return Pulse(node())
        owners = self._listeners if method == "endpoint" else self._samplers
        result = getattr(owners[name], method)(*arguments)
        return await result if inspect.isawaitable(result) else result


class Seat:
    """One sampler of a host, with the face of an actor handle: `seat.method.remote(...)`."""

    def __init__(self, actor: Any, name: str) -> None:
        """The sampler `name` of the actor."""
        self.actor = actor
        self.name = name

    def __getattr__(self, method: str) -> _SeatMethod:
        if method.startswith("_"):
            raise AttributeError(method)
        return _SeatMethod(self, method)

    def __reduce__(self) -> tuple[type[Seat], tuple[Any, str]]:
        return Seat, (self.actor, self.name)


class _SeatMethod:
    def __init__(self, seat: Seat, method: str) -> None:
        self._seat = seat
        self._method = method

    def remote(self, *arguments: Any) -> Any:
        """Call it, as Ray would."""
        return self._seat.actor.call.remote(self._seat.name, self._method, *arguments)


class SeatedSampler(Remote):
    """A sampler without a process of its own."""

    def kill(self) -> None:
        """End this one, not its host."""
        self.handle.die.remote()


class Caller:
    """Calls samplers as a worker does, and does nothing else: what Ray alone takes for a turn."""

    def __init__(self, scale: Scale, samplers: Sequence[Remote], seed: int) -> None:
        """Ask each of `samplers` as often as any other."""
        self._scale = scale
        self._samplers = samplers
        self._chance = random.Random(seed)
        tokens = scale.prompt + scale.turns * (scale.turn + scale.observation) // 2
        self._request = SamplingRequest([1] * tokens, scale.turn, ("</a>",), 1.0)

    async def play(self, rate: float, seconds: float) -> list[float]:
        """Call `rate` times a second, at random moments; what was added to each call."""
        calls, end = [], time.monotonic() + seconds
        due = time.monotonic() + self._chance.expovariate(rate)
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.append(asyncio.create_task(self._call(due)))
            due += self._chance.expovariate(rate)
        return await asyncio.gather(*calls)

    async def _call(self, due: float) -> float:
        await self._chance.choice(self._samplers).sample(self._request)
        return time.monotonic() - due - self._scale.sampler_s


class HostedSimulatedLearner(SimulatedLearner):
    """A fake learner rank that reads what it is given, as a real one does."""

    @ray.method(concurrency_group=HEART)
    def beat(self) -> Pulse:
        """Answer beside a step."""
        return Pulse(node())

    def meeting(self) -> tuple[str, int]:
        """Where nobody will meet."""
        return "localhost", 1

    def step(self, version: int, *batches: Any) -> dict[str, Any]:
        """Map every group, and let the time of a step pass."""
        return super().step(version, *(columns_of(batch).num_rows for batch in batches))

    def connect(self, group: TransferGroup, client: Any) -> None:
        """(Re)connect all samplers."""
        super().connect(group, client)

    def hold(self) -> None:
        """Keep nothing."""

    def publish(self) -> Publication:
        """Publish through Ray."""
        return super().publish()

    def close(self) -> None:
        """There is nothing to leave."""


class SimulatedWorker(HostedWorker):
    """A real rollout worker with fake environments."""

    def __init__(self, config: Config, name: str, *, scale: Scale, run_dir: str) -> None:
        """Begin with episodes that are spread evenly over their lives, as later on they are."""
        self._scale = scale
        self._pacer = Pacer(seed=zlib.crc32(name.encode()))
        self._made = 0
        self._journal_files = Journal(Path(run_dir) / "journal" / name, sync=Sync())
        RolloutWorker.__init__(
            self,
            config,
            name,
            tasks=[Task("t", "", ("",), "simulated")],
            held_out=(),
            make_environment=self._environment,
            renderer=FakeRenderer(),
            journal=self._journal_files.append,
            turns=TurnJournal(Path(run_dir) / "turns"),
        )
        self._offered = {}
        self._channels = {}

    async def pace(self, rate: float) -> None:
        """End `rate` waits for operators per second."""
        self._pacer.pace(rate)

    def drain(self) -> tuple[int, list[float]]:
        """Turns, and the seconds added to each, since the last call."""
        return self._pacer.drain()

    async def run(self, buffer: Any) -> None:
        """Play."""
        async with background(self._pacer.run()) as beside:
            await beside.race(super().run(buffer))

    async def close(self) -> None:
        """End the journal's file."""
        self._journal_files.close()

    def _environment(self) -> PacedEnvironment:
        scale, group = self._scale, self._made // GROUP
        self._made += 1
        first = self._made * scale.worker_processes <= self._config.slots * GROUP
        return PacedEnvironment(
            1 + group % scale.turns if first else scale.turns,
            self._pacer,
            sampler_s=scale.sampler_s,
            prompt=scale.prompt,
            observation=scale.observation,
        )
