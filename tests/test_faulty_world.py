"""A disk that fills up, a clock that jumps: the real worker, journals, ledger and buffer go on."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from pathlib import Path

import pytest

from actors.worker import RolloutWorker
from wfr.audit import audit
from wfr.buffer import ReplayBuffer
from wfr.config import parse_config
from wfr.history import EventLog
from wfr.journal import Journal, read_journal
from wfr.line_log import Sync
from wfr.recovery import ledger_path
from wfr.schema import from_batch
from wfr.selection import Rules
from wfr.tasks.source import Task
from wfr.testing import FakeEnvironment, FakeRenderer, FakeSampler
from wfr.turn_journal import TurnJournal

TASKS = [Task(f"t{i}", f"q{i}", (f"q{i}",), "test") for i in range(6)]
GROUPS = 2  # per batch


def two_turns(request):
    """The fake policy: asks for its question, then answers with it."""
    *history, _ = "".join(map(chr, request.tokens)).split(FakeRenderer.OPEN)
    question = history[0].removesuffix(FakeRenderer.EOS)
    return FakeRenderer.ids(f"get {question};" if len(history) == 1 else f"say {question};")


class Run:
    """A run in a directory: one worker, one buffer, and a learner that only counts."""

    def __init__(self, directory):
        self.directory, self.version = Path(directory), 0
        sync = Sync("off")
        (self.directory / "config.json").write_text(
            json.dumps({"buffer": {"max_lag": 1, "shards": 1}})
        )
        self.journal = Journal(self.directory / "journal" / "worker-0", sync=sync)
        self.log = EventLog(ledger_path(self.directory, 0), sync)
        self.buffer = ReplayBuffer(Rules(1, GROUPS), log=self.log)
        self.sampler = FakeSampler(two_turns)
        self.worker = RolloutWorker(
            parse_config(
                {
                    "run": {"name": "r"},
                    "objective": {"advantage": "centred"},
                    "rollout": {"group_size": 2},
                }
            ),
            "worker-0",
            tasks=TASKS,
            held_out=[],
            make_environment=FakeEnvironment,
            renderer=FakeRenderer(),
            journal=self.journal.append,
            turns=TurnJournal(self.directory / "turns", sync),
        )
        self.worker.update_samplers({"a": self.sampler})

    async def steps(self, count):
        for _ in range(count):
            async with asyncio.timeout(60):
                batch = await self.buffer.take()
            self.version += 1
            self.sampler.version = self.version
            await self.buffer.published(self.version, batch.batch_id)

    async def live(self, script):
        playing = asyncio.create_task(self.worker.run(self.buffer))
        await script(self)
        await self.buffer.close()
        await asyncio.gather(playing, return_exceptions=True)
        self.journal.close()
        self.log.close()


async def until(condition):
    """Let the loop and its timers run until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of 256 KiB over a directory; it is gone afterwards."""
    mounted = []

    def mount(directory):
        directory.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "wfr", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
        mounted.append(directory)

    yield mount
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.parametrize("what", ["journal", "ledger"])
def test_a_full_disk_stops_admission_and_room_lets_all_go_on(
    tmp_path, small_disk, monkeypatch, what
):
    monkeypatch.setattr("actors.worker.RETRY_S", 0.001)
    monkeypatch.setattr("wfr.history.RETRY_S", 0.001)
    small_disk(tmp_path / what)
    ballast = tmp_path / what / "ballast"
    full = []

    async def script(run):
        waits = run.worker if what == "journal" else run.buffer
        await run.steps(3)
        fill(ballast)
        learner = asyncio.create_task(run.steps(6))
        await until(waits.disk_full)
        full.append(run.buffer.ledger().groups_admitted)
        await asyncio.sleep(0.02)  # some twenty more attempts at a disk that stays full
        full.append(run.buffer.ledger().groups_admitted)
        ballast.unlink()
        await learner
        await until(lambda: not waits.disk_full())
        await run.steps(2)

    run = Run(tmp_path)
    asyncio.run(run.live(script))
    report = audit(tmp_path)
    assert report.violations == []
    assert (report.version, report.ledger.groups_consumed) == (11, 11 * GROUPS)
    assert report.ledger.missing == 0
    # Slots that were asked for already are all that is given out, and the bound on them holds.
    assert full[1] <= full[0] + 2 * GROUPS < report.ledger.groups_admitted


def fill(path):
    """Write until the disk is full to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with pytest.raises(OSError, match="No space left"):
                write_for_ever(file, b"x" * size)


def write_for_ever(file, data):
    while True:
        file.write(data)


def test_a_clock_that_jumps_to_and_fro_changes_nothing(tmp_path, monkeypatch):
    times = itertools.cycle([0.0, 4e9, 1.0, -5.0])
    monkeypatch.setattr("time.time", lambda: next(times))
    asyncio.run(Run(tmp_path).live(lambda run: run.steps(8)))
    report = audit(tmp_path)
    assert report.violations == []
    assert (report.version, report.ledger.groups_consumed) == (8, 8 * GROUPS)
    rows = [
        row
        for batch in read_journal(tmp_path / "journal" / "worker-0")
        for row in from_batch(batch).trajectories
    ]
    assert any(row.finished_at < row.started_at for row in rows)
