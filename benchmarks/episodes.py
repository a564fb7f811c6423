"""Processor time of a turn in a rollout worker, from 64 to 4,096 episodes at once in one process.

Everything that a worker does for a turn is real: tokenizer and chat template, router, environment,
parser, search, turn journal, recorder, and for each group Arrow columns, journal and replay buffer.
Only the sampler is a fake (`wfr.testing.FakeSampler`): it answers with ready token ids, three
searches and an answer, the first of which finds something. So all time is the worker's, of one
process, which does nothing else; it is divided by all turns. The sides, 64 to 4,096 episodes at
once, play equally many episodes in turns, batch after batch, until all of a batch are done.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from actors.render import Renderer
from actors.worker import RolloutWorker
from benchmarks.harness import Result, at_most, figure, interleave, ratio
from learner import tiny
from wfr.buffer import BufferClosedError, ReplayBuffer
from wfr.config import Config, load_config
from wfr.environments.registry import make_factory
from wfr.journal import Journal
from wfr.line_log import Sync
from wfr.protocols import SamplingRequest
from wfr.selection import Rules
from wfr.tasks.registry import make_source
from wfr.tasks.source import Task
from wfr.testing import FakeSampler
from wfr.turn_journal import TurnJournal

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "cluster/configs/quickstart.yaml"
CONCURRENT = (64, 256, 1024, 4096)
SEARCHES = 3


def run(quick: bool) -> Result:
    """Play episodes with a fake sampler, few and many at once."""
    concurrent = CONCURRENT[:1] if quick else CONCURRENT
    config = load_config(CONFIG, ["environment.pool=[Search]"])
    with tempfile.TemporaryDirectory(prefix="wfr-episodes-") as directory:
        play = _Player(config, Path(directory), max(concurrent))
        sides = {str(count): partial(play, count) for count in concurrent}
        found = interleave(sides, repeats=1 if quick else 5)
    milliseconds = {name: [1000 * value for value in values] for name, values in found.items()}
    figures = [
        figure(f"processor time per turn, {name} episodes at once", values, "ms", at_most(1.0))
        for name, values in milliseconds.items()
    ]
    few, *_, many = map(str, (concurrent[0], *concurrent))
    figures.append(ratio(f"the same, {many} ÷ {few} at once", found[many], found[few]))
    setup = {
        "configuration": str(CONFIG.relative_to(ROOT)),
        "episodes of each side": max(concurrent),
        "turns of an episode": SEARCHES + 1,
        "group_size": config.rollout.group_size,
    }
    return Result(figures, setup)


class _Player:
    """Plays episodes in this process; each call returns processor seconds per turn."""

    def __init__(self, config: Config, directory: Path, episodes: int) -> None:
        self._config = config
        self._directory = directory
        self._episodes = episodes
        self._calls = 0
        path = directory / "director"
        tiny.save(*tiny.make(config), path)
        self._renderer = Renderer(path)
        source = make_source(config)
        self._tasks = source.train()
        self._factory = make_factory(config, source)
        self._reply = _policy(self._renderer, self._tasks[0])

    def __call__(self, concurrent: int) -> float:
        self._calls += 1
        return asyncio.run(self._play(concurrent))

    async def _play(self, concurrent: int) -> float:
        sampler = FakeSampler(self._reply)
        groups = concurrent // self._config.rollout.group_size
        buffer = ReplayBuffer[Any](Rules(max_lag=0, groups_per_batch=groups))
        batches = self._episodes // concurrent
        with self._worker() as worker:
            worker.update_samplers({"sampler": sampler})
            started = time.process_time()
            playing = asyncio.create_task(worker.run(buffer))
            for number in range(batches):
                batch = await buffer.take()
                if number + 1 < batches:
                    sampler.version = number + 1
                    await buffer.published(number + 1, batch.batch_id)
            seconds = time.process_time() - started
            await buffer.close()
            with contextlib.suppress(BufferClosedError):
                await playing
        turns = len(sampler.requests)
        if turns != (SEARCHES + 1) * self._episodes:
            raise RuntimeError(f"{self._episodes} episodes took {turns} turns: some were cut short")
        return seconds / turns

    @contextlib.contextmanager
    def _worker(self) -> Iterator[RolloutWorker]:
        place = self._directory / str(self._calls)
        sync = Sync(self._config.journal.fsync, self._config.journal.fsync_interval_s)
        journal = Journal(place / "journal", self._config.journal.file_mib << 20, sync)
        try:
            yield RolloutWorker(
                self._config,
                "worker-0",
                tasks=self._tasks,
                held_out=(),
                make_environment=self._factory,
                renderer=self._renderer,
                journal=journal.append,
                turns=TurnJournal(place / "turns", sync),
            )
        finally:
            journal.close()


def _policy(renderer: Renderer, task: Task) -> Callable[[SamplingRequest], Sequence[int]]:
    """Searches, then an answer; the turn is told by how many calls are in the request."""
    tokenizer = renderer.tokenizer
    call = f"<think> find job </think> <tool> Search: {task.question} </tool>"
    answer = "<think> find job </think> <answer> none </answer>"
    turns: list[list[int]] = [list(tokenizer.encode(text)) for text in (call, answer)]
    mark = turns[0][-1]

    def reply(request: SamplingRequest) -> Sequence[int]:
        return turns[0] if list(request.tokens).count(mark) < SEARCHES else turns[1]

    return reply
