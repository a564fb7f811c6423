"""Checkpoints: the order of what happens, what a failure leaves, and which are kept."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import saving as saving_module
from cluster.gang import LearnerLostError
from cluster.resume import newest_state
from cluster.retention import kept, retain
from cluster.saving import Saving
from wfr import crash_points
from wfr.checkpoint_config import CheckpointsConfig
from wfr.config import parse_config
from wfr.protocols import PeerLostError


class Rank:
    """Writes one file, when `disk` lets it; `faults` are raised in turn instead."""

    def __init__(self, events, faults=()):
        self.events, self.faults = events, list(faults)
        self.disk = asyncio.Event()

    async def snapshot(self, about):
        self.events.append(f"snapshot {about['steps']}")

    async def write(self, directory):
        await self.disk.wait()
        if self.faults:
            raise self.faults.pop(0)
        (Path(directory) / "training" / "rank-0.safetensors").write_text("state")
        self.events.append("write")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run at version 4, and what happens in it by name."""
    events = []
    config = parse_config(
        {"run": {"name": "r"}, "journal": {"compact": "acknowledged"}, "checkpoints": {"keep": 2}}
    )

    async def force():
        events.append("ledger forced")

    def note_compaction(directory, max_lag, shards, checkpoint):
        events.append(f"acknowledged below {checkpoint}")

    monkeypatch.setattr(crash_points, "hook", events.append)
    monkeypatch.setattr(saving_module, "compact", note_compaction)
    monkeypatch.setattr(saving_module, "_WATCH_S", 0)
    (tmp_path / "checkpoints").mkdir()
    state = SimpleNamespace(
        config=config,
        version=4,
        tally=SimpleNamespace(steps=4),
        directory=SimpleNamespace(
            path=tmp_path, checkpoint=lambda version: tmp_path / "checkpoints" / str(version)
        ),
        topology=SimpleNamespace(buffer=SimpleNamespace(force=force), ranks=[Rank(events)]),
        progress=SimpleNamespace(note=lambda text: events.append(text.partition(" ")[0])),
        record=lambda kind, values: events.append(kind),
        learner_lost=asyncio.Event(),
    )
    return SimpleNamespace(state=state, events=events, saving=Saving(state, set))


def test_acknowledgement_waits_until_the_checkpoint_is_whole(run):
    """However long it takes: training has gone on by then, and what came later is not covered."""

    async def main():
        run.state.topology.ranks.append(slow := Rank(run.events))
        run.state.topology.ranks[0].disk.set()
        await run.saving.checkpoint()
        run.events.append("training goes on")
        run.state.version, run.state.tally.steps = 7, 7
        while "write" not in run.events:
            await asyncio.sleep(0.001)
        assert not run.state.directory.checkpoint(4).exists()  # one rank has not written yet
        run.events.append("the other rank's turn")
        slow.disk.set()
        await run.saving.settled()

    asyncio.run(main())
    assert run.events == [
        *("ledger forced", "snapshot 4", "snapshot 4", "training goes on"),
        *("write", "the other rank's turn", "write"),
        *("checkpoint.written", "checkpoint.visible", "acknowledged below 4"),
        *("checkpoint", "checkpoint"),
    ]
    assert newest_state(run.state.directory.path).name == "4"


def test_one_is_written_at_a_time(run):
    async def main():
        rank = run.state.topology.ranks[0]
        await run.saving.checkpoint()
        run.state.version, run.state.tally.steps = 6, 6
        second = asyncio.create_task(run.saving.checkpoint())
        await asyncio.sleep(0)
        assert "snapshot 6" not in run.events
        rank.disk.set()
        await second
        await run.saving.settled()

    asyncio.run(main())
    assert run.events.index("acknowledged below 4") < run.events.index("snapshot 6")
    assert run.events.index("checkpoint.visible") < run.events.index("snapshot 6")


def test_ranks_that_die_leave_the_checkpoint_before(run):
    """Nothing is acknowledged, nothing appears; training hears of it, at once and only once."""

    async def main():
        rank = run.state.topology.ranks[0]
        rank.disk.set()
        await run.saving.last()
        run.state.version = 6
        rank.faults.append(PeerLostError("died"))
        await run.saving.checkpoint()
        await run.saving.written()
        assert run.state.learner_lost.is_set()
        with pytest.raises(LearnerLostError):
            run.saving.check()
        run.saving.check()
        await run.saving.abandon()

    asyncio.run(main())
    assert newest_state(run.state.directory.path).name == "4"
    assert "acknowledged below 6" not in run.events


def test_a_full_disk_is_waited_for(run):
    async def main():
        rank = run.state.topology.ranks[0]
        rank.faults += [OSError(errno.ENOSPC, "full")] * 2
        rank.disk.set()
        await run.saving.last()

    asyncio.run(main())
    assert run.events.count("THE") == 1  # THE DISK IS FULL
    assert run.events.index("THE") < run.events.index("write") < run.events.index("there")


def test_other_errors_of_the_disk_end_the_run(run):
    async def main():
        rank = run.state.topology.ranks[0]
        rank.faults.append(OSError(errno.EROFS, "read-only"))
        rank.disk.set()
        await run.saving.checkpoint()
        await run.saving.written()
        with pytest.raises(OSError, match="read-only"):
            run.saving.check()

    asyncio.run(main())


VERSIONS = st.sets(st.integers(0, 60))


@given(VERSIONS, st.none() | st.integers(1, 9), st.integers(0, 9), VERSIONS)
def test_what_the_policy_keeps(versions, keep, every, needed):
    policy = CheckpointsConfig(keep=keep, keep_every=every)
    stay = kept(versions, policy, needed)
    assert stay <= versions
    assert versions & needed <= stay
    if keep is None:
        assert stay == versions
        return
    assert set(sorted(versions)[-keep:]) <= stay
    for version in versions - stay:
        assert len([v for v in versions if v > version]) >= keep
        assert not every or version % every
    assert len(stay - needed - {v for v in versions if every and v % every == 0}) <= keep


def _checkpoints(run_dir, versions):
    for version in versions:
        (run_dir / "checkpoints" / str(version) / "training").mkdir(parents=True)


def test_the_best_the_pinned_and_the_needed_one_stay(tmp_path):
    _checkpoints(tmp_path, range(2, 22, 2))
    (tmp_path / "checkpoints" / "best").symlink_to("4")
    (tmp_path / "serving.pin").write_text("8\n")
    retain(tmp_path, CheckpointsConfig(keep=2, keep_every=10), 1, {12})
    left = list((tmp_path / "checkpoints").glob("[0-9]*"))
    assert sorted(int(p.name) for p in left) == [4, 8, 10, 12, 18, 20]
    assert [p.name for p in left if (p / "training").exists()] == ["20"]


def test_without_a_policy_all_stay_and_the_newest_states(tmp_path):
    _checkpoints(tmp_path, (8, 9, 10))
    retain(tmp_path, CheckpointsConfig(), 2)
    left = sorted((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert [(p.name, (p / "training").exists()) for p in left] == [
        *(("8", False), ("9", True), ("10", True))
    ]
