"""A small run in one process, without an engine, that kills itself at a named crash point.

The buffer, the journals, the ledger, the turn journal, recovery and compaction are the real ones. A
worker's "sampler" computes tokens from group, sibling and turn; the learner's "weights" are a chain
of checksums over everything that it was trained on, so a group that is lost, used twice, or used in
another order gives other weights.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import xxhash

from wfr import crash_points
from wfr.buffer import BufferClosedError, ReplayBuffer
from wfr.columns import view
from wfr.compaction import compact
from wfr.groups import GroupMeta
from wfr.history import EventLog
from wfr.journal import Journal, Record
from wfr.line_log import Sync
from wfr.recovery import ledger_path, recover
from wfr.schema import to_batch
from wfr.selection import Rules
from wfr.shards import ShardedBuffer, shares
from wfr.spill import SpillDirectory, Spilled
from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan
from wfr.turn_journal import TurnJournal

MAX_LAG, SIZE, SIBLINGS, TURNS, WORKERS = 2, 2, 2, 3, 3


class Store:
    """Groups over the memory budget in files."""

    def __init__(self, directory):
        self.files = SpillDirectory(directory)

    async def spill(self, group_id, ref):
        return (self.files.write(group_id, ref[0]),)

    def free(self, ref):
        self.files.free(ref[0])


def tokens_of(group, sibling, turn):
    """What the sampler says: int32 [3 to 5]."""
    return np.arange(3 + (group + sibling + turn) % 3, dtype=np.int32) + 1000 * group + 10 * turn


def trained(weights, batches):
    """The weights after a step on these batches."""
    digest = xxhash.xxh3_64(weights.encode())
    for batch in batches:
        for row in view(batch).trajectories:
            digest.update(row.tokens.tobytes())
    return digest.hexdigest()


class Host:
    """One life of the run in `directory`, of at most `steps` steps."""

    def __init__(self, directory, seed, shards=1):
        self.run = Path(directory)
        self.shards = shards
        self.rng = random.Random(seed)
        self.played = Counter()
        for name in ("journal", "checkpoints"):
            (self.run / name).mkdir(parents=True, exist_ok=True)
        config = {"buffer": {"max_lag": MAX_LAG, "shards": shards}}
        (self.run / "config.json").write_text(json.dumps(config))
        self.snapshot = None
        self.checkpoint, self.weights = self.newest_checkpoint()
        recovery = recover(
            self.run, max_lag=MAX_LAG, shards=shards, checkpoint=self.checkpoint
        )  # of nothing, at the first time
        self.version = recovery.version
        for step in sorted(recovery.batches):
            self.weights = trained(
                self.weights, [e.ref[0].read() for e in recovery.batches[step].groups]
            )
        self.parts = [
            ReplayBuffer(
                Rules(MAX_LAG, share),
                store=Store(self.run / "spill" / str(shard)),
                memory_bytes=1,
                shard=shard,
                shards=shards,
                log=EventLog(ledger_path(self.run, shard), Sync("off")),
            )
            for shard, share in enumerate(shares(SIZE, shards))
        ]
        self.buffer = self.parts[0] if shards == 1 else ShardedBuffer(self.parts)
        self.recovered = recovery.shards
        self.turns = TurnJournal(self.run / "turns", Sync("off"))
        self.metrics = self.open_metrics()

    def open_metrics(self):
        path = self.run / "metrics.jsonl"
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        return path.open("a")

    def newest_checkpoint(self):
        found = [int(p.name) for p in (self.run / "checkpoints").glob("[0-9]*")]
        if not found:
            return 0, ""
        path = self.run / "checkpoints" / str(max(found)) / "wfr_state.json"
        return max(found), json.loads(path.read_text())["weights"]

    async def live(self, steps):
        for part, recovered in zip(self.parts, self.recovered, strict=True):
            part.restore(recovered.state)
            for group, record, meta in recovered.finished:
                await part.add(group, (record,), dataclasses.replace(meta, size=0))
        workers = [asyncio.create_task(self.work(f"w{n}")) for n in range(WORKERS)]
        for _ in range(steps):
            await self.step()
        if self.snapshot is not None:
            self.save(self.snapshot)
        await self.buffer.close()
        await asyncio.gather(*workers)
        self.metrics.close()

    async def work(self, name):
        journal = Journal(self.run / "journal" / name, max_bytes=9000, sync=Sync("off"))
        try:
            while True:
                admission = await self.buffer.admit(name)
                await self.play(journal, admission.group_id, admission.version)
        except BufferClosedError:
            journal.close()

    async def play(self, journal, group, admitted):
        turns = self.turns.group(group)
        rows = [await self.episode(turns, group, sibling) for sibling in range(SIBLINGS)]
        batch = to_batch(Group(str(group), "task", admitted, rows))
        meta = GroupMeta(
            *(SIBLINGS, SIBLINGS, sum(row.policy_tokens for row in rows)),
            *(min(row.oldest_version for row in rows), {}, batch.nbytes),
        )
        journal.append(batch, dataclasses.asdict(meta))
        turns.remove()
        for _ in range(self.rng.choice((1, 1, 2))):  # at times delivered twice
            await self.buffer.add(group, (batch,), meta)

    async def episode(self, turns, group, sibling):
        done = turns.found(sibling, 0)
        for turn in range(len(done), TURNS):
            for _ in range(self.rng.randrange(4)):
                await asyncio.sleep(0)
            if self.rng.random() < 0.05:
                await asyncio.sleep(0.001)
            self.played[group, sibling, turn] += 1
            ids = tokens_of(group, sibling, turn).tolist()
            done.append({"tokens": ids, "version": self.version, "turn": [0, len(ids)]})
            turns.append(sibling, 0, done[-1])
        return trajectory(group, sibling, done)

    async def step(self):
        batch = await self.buffer.take()
        read = [read_of(entry.ref[0]) for entry in batch.entries]
        self.weights = trained(self.weights, read)
        await self.buffer.published(self.version + 1, batch.batch_id)
        self.version += 1
        groups = [entry.group_id for entry in batch.entries]
        line = {"kind": "step", "version": self.version, "groups": groups}
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        if self.snapshot is not None:  # one step later: it is written while training goes on
            self.save(self.snapshot)
            self.snapshot = None
        if self.version % 4 == 0:
            for part in self.parts:
                part.force()
            self.snapshot = {"version": self.version, "weights": self.weights}

    def save(self, state):
        crash_points.reach("checkpoint.begin")
        target = self.run / "checkpoints" / str(state["version"])
        temporary = target.with_name(f".{target.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        (temporary / "wfr_state.json").write_text(json.dumps(state))
        crash_points.reach("checkpoint.written")
        temporary.rename(target)
        crash_points.reach("checkpoint.visible")
        compact(self.run, MAX_LAG, self.shards, state["version"])


def trajectory(group, sibling, turns):
    """The rows that these turns make."""
    tokens = np.concatenate([turn["tokens"] for turn in turns]).astype(np.int32)
    edges = np.cumsum([0, *(len(turn["tokens"]) for turn in turns)]).tolist()
    spans = list(itertools.pairwise(edges))
    return Trajectory(
        *("run", "task", str(group), sibling),
        tokens=tokens,
        turn_id=np.repeat(np.arange(len(turns)), np.diff(edges)).astype(np.int16),
        behaviour_logprob=np.full(len(tokens), -1.0, np.float32),
        version_spans=[
            VersionSpan(a, b, turn["version"]) for (a, b), turn in zip(spans, turns, strict=True)
        ],
        turns=[Turn(a, b, b, TurnKind.TOOL, "stop") for a, b in spans],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=1.0,
    )


def read_of(ref):
    return ref.read() if isinstance(ref, Spilled | Record) else ref


def life(directory, point, nth, seed, steps, shards):
    """Go on with the run; die by SIGKILL when `point` is reached for the `nth` time."""
    reached = Counter()

    def hook(name):
        reached[name] += 1
        if name == point and reached[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    crash_points.hook = hook
    host = Host(directory, seed, shards)
    asyncio.run(host.live(steps))
    (Path(directory) / "played.json").write_text(json.dumps(max(host.played.values(), default=0)))
