"""kill -9 at every named point of a put, take, acknowledgement, spill, rotation and checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import random
from multiprocessing import forkserver, resource_tracker

import crash_host
import pytest

from wfr.audit import audit
from wfr.crash_points import NAMES
from wfr.history import History, read_history
from wfr.line_log import read_lines
from wfr.recovery import journal_records, ledger_path

pytestmark = pytest.mark.engine  # for its time

PROCESSES = multiprocessing.get_context("forkserver")  # a fork of what is imported takes 20 ms
PROCESSES.set_forkserver_preload(["crash_host"])


@pytest.fixture(autouse=True, scope="module")
def no_server_is_left():
    yield
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()


def live(directory, point="", nth=1, seed=0, steps=10, shards=1):
    """One life of the run; whether the crash point killed it."""
    process = PROCESSES.Process(
        target=crash_host.life, args=(str(directory), point, nth, seed, steps, shards)
    )
    process.start()
    process.join(120)
    assert process.exitcode in (0, -9), f"{point} for the {nth}th time, seed {seed}"
    return process.exitcode == -9


def check(directory):
    """The audit passes; its report."""
    report = audit(directory)
    assert report.violations == []
    return report


def ledger_of(directory, shard=0, shards=1):
    history = History(crash_host.MAX_LAG, shard, shards)
    read_history(ledger_path(directory, shard), history)
    return history


class Oracle:
    """Computes the weights anew from the ledger's batches and what the sampler says."""

    def __init__(self, directory, shards):
        self.directory, self.shards, self.seen = directory, shards, {}

    def look(self):
        histories = [ledger_of(self.directory, s, self.shards) for s in range(self.shards)]
        for group in (group for history in histories for group in history.groups):
            rows = [
                [crash_host.tokens_of(group, s, t).tolist() for t in range(crash_host.TURNS)]
                for s in range(crash_host.SIBLINGS)
            ]
            self.seen[group] = rows
        return histories

    def weights(self, version):
        histories, weights = self.look(), ""
        for step in range(version):
            groups = sorted(group for history in histories for group in history.batches[step][0])
            weights = crash_host.trained(weights, [_batch(g, self.seen[g]) for g in groups])
        return weights


def _batch(group, rows):
    from wfr.schema import to_batch
    from wfr.trajectory import Group

    turns = [[{"tokens": tokens, "version": 0} for tokens in row] for row in rows]
    made = [crash_host.trajectory(group, sibling, row) for sibling, row in enumerate(turns)]
    return to_batch(Group(str(group), "task", 0, made))


def crash_and_check(directory, rounds, seed, shards=1):
    """Crash again and again in one run; returns the points that were hit."""
    rng, oracle, hit = random.Random(seed), Oracle(directory, shards), []
    version = 0
    for point in rounds:
        often = point.split(".")[0] in ("put", "turn", "admit", "take", "publish", "spill")
        nth = rng.choice((1, 2, 3, 5, 8) if often else (1,))
        if live(directory, point, nth, seed=rng.randrange(10**6), shards=shards):
            hit.append(point)
        if ledger_path(directory, 0).exists():
            report = check(directory)
            assert report.version >= version
            version = report.version
    live(directory, seed=1, steps=8 - version % 4, shards=shards)  # ends with a checkpoint
    report = check(directory)
    newest = directory / "checkpoints" / str(report.version) / "wfr_state.json"
    assert json.loads(newest.read_text())["weights"] == oracle.weights(report.version)
    assert report.max_lag_seen <= crash_host.MAX_LAG
    assert report.ledger.groups_consumed == report.version * crash_host.SIZE
    return hit


@pytest.mark.engine  # not for an engine, but for its ten seconds
@pytest.mark.parametrize("shards", [1, 2])
def test_every_crash_point_once(tmp_path, shards):
    hit = crash_and_check(tmp_path, NAMES, seed=1, shards=shards)
    assert set(hit) == set(NAMES)


@pytest.mark.parametrize("point", ["take.booked", "publish.booked"])
def test_a_kill_between_two_shards_costs_nothing(tmp_path, point):
    """One shard has booked the take or the publication, and the other has not."""
    assert crash_and_check(tmp_path, [point] * 2, seed=2, shards=2) == [point] * 2


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_crashes(tmp_path):
    """Runs of 24 to 48 crashes each, until every point has killed and 200 crashes are survived."""
    hit, seed = [], 0
    while len(hit) < 200:
        seed += 1
        points = random.Random(seed).sample(NAMES * 2, len(NAMES) * 2)
        hit += crash_and_check(tmp_path / str(seed), points, seed)
    assert set(hit) == set(NAMES)


TAILS = {
    "torn": lambda data, cut: data[:-cut],
    "zeros": lambda data, cut: data[:-cut] + b"\0" * cut,
    "bit": lambda data, cut: data[:-cut] + bytes([data[-cut] ^ 1]) + data[len(data) - cut + 1 :],
    "garbage": lambda data, cut: data + b"\xa5" * cut,
}


@pytest.mark.parametrize("kind", TAILS)
@pytest.mark.parametrize("what", ["*.arrow", "*.index", "ledger"])
def test_a_damaged_tail_is_booked_and_the_run_goes_on(tmp_path, kind, what):
    """A power cut: the end of the newest file is not what was written."""
    assert live(tmp_path, "publish.booked", 6, seed=3)
    if what == "ledger":
        path = ledger_path(tmp_path, 0)
        size = len(path.read_bytes().splitlines()[-1]) // 2
    else:
        path = max(tmp_path.glob(f"journal/*/{what}"), key=lambda p: p.stat().st_mtime_ns)
        size = 150
    path.write_bytes(TAILS[kind](path.read_bytes(), size))
    live(tmp_path, steps=6)
    report = check(tmp_path)
    assert report.version >= 10
    books = report.ledger
    assert books.generated == books.consumed + books.discarded.total() + books.waiting
    assert set(books.discarded) <= {"journal_damaged"}


def test_a_learner_that_dies_between_take_and_publish_gets_the_same_batch(tmp_path):
    assert live(tmp_path, "publish.begin", 3)
    history = ledger_of(tmp_path)
    taken = history.batches[2][0]
    assert history.out == [2]
    live(tmp_path, steps=2)
    events = list(read_lines(ledger_path(tmp_path, 0)))
    takes = [e["groups"] for e in events if e["event"] == "take" and e["batch"] == 2]
    assert takes == [taken, taken]
    check(tmp_path)


def test_completed_turns_are_not_played_again(tmp_path):
    """Of what was in flight, the turns on the disk survive, token by token."""
    assert live(tmp_path, "turn.written", 20)
    before = {p: list(read_lines(p)) for p in (tmp_path / "turns").iterdir()}
    assert before
    assert live(tmp_path, "put.indexed", 1)
    records = journal_records(tmp_path)
    finished = [p for p in before if int(p.stem) in records]
    live(tmp_path, steps=4)
    check(tmp_path)
    assert finished


def test_clock_jumps_change_nothing(tmp_path, monkeypatch):
    """Durations run on a clock that never jumps, and nothing is ordered by the time of day."""
    import asyncio
    import itertools

    times = itertools.cycle([0.0, 4e9, 1.0, -5.0])
    monkeypatch.setattr("time.time", lambda: next(times))
    for _ in range(2):
        asyncio.run(crash_host.Host(tmp_path, 1).live(6))
    assert check(tmp_path).version == 12
