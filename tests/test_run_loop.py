"""The run's loops over fake processes: what happens after what, and what a loss leads to."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import pytest
from prometheus_client import CollectorRegistry

from actors.worker import EpisodeResult, RepeatedFailureError
from cluster.failures import HubLostError, ProcessLostError, RunFailedError
from cluster.gang import LearnerLostError, together
from cluster.progress import Progress
from cluster.pulse import Pulse
from cluster.run import Run
from cluster.run_directory import RunDirectory
from cluster.survivors import Survivors
from wfr.backends.base import BackendConfigError
from wfr.buffer import ReplayBuffer
from wfr.config import parse_config
from wfr.groups import Batch, Entry, GroupMeta
from wfr.metrics import RunMetrics
from wfr.protocols import DataLostError, PeerLostError, Publication, PublishError
from wfr.selection import Rules
from wfr.soundness import BatchRefusedError, Refusal
from wfr.testing import settle


class Remote:
    """A plain object as `cluster.remote.Remote` shows it: every method is a coroutine."""

    def __init__(self, target, events):
        self._target, self._events = target, events

    def __getattr__(self, name):
        async def call(*args, **options):
            result = getattr(self._target, name)(*args, **options)
            result = await result if asyncio.iscoroutine(result) else result
            if name == "published":
                self._events.append(f"published {args[0]}")
            return result

        return call


class Sampler:
    def __init__(self, name, events=None):
        self.name, self.dead = name, asyncio.Event()
        self.events = [] if events is None else events
        self.told = []  # a test may set the list of events here

    async def watch(self):
        await self.dead.wait()
        raise PeerLostError(f"{self.name} died")

    async def shutdown(self):
        pass

    async def load(self):
        return 8, False

    async def beat(self):
        return Pulse(f"node of {self.name}")

    async def ping(self):
        if self.dead.is_set():
            raise PeerLostError(f"{self.name} died")

    async def doze(self):
        if self.dead.is_set():
            raise PeerLostError(f"{self.name} died")
        self.events.append(f"doze {self.name}")

    async def wake(self):
        if self.dead.is_set():
            raise PeerLostError(f"{self.name} died")
        self.events.append(f"wake {self.name}")

    async def leave(self, grace_s):
        self.told.append(f"leave {self.name} in {grace_s:g} s")

    def kill(self):
        self.told.append(f"kill {self.name}")

    async def hang(self):
        await asyncio.Event().wait()


class Rank:
    """A learner rank that trains nothing; `faults` are raised by publications in turn.

    Like the real one its step runs at once, but changes no weights before a held version is sent.
    """

    def __init__(self, events, faults=(), step_error=None, lost=None, refusals=()):
        self.events, self.faults, self.step_error = events, list(faults), step_error
        self.lost = dict(lost or {})
        self.refusals = list(refusals)  # of each step in turn: nothing, some groups, or all
        self.version = 0
        self.free = asyncio.Event()
        self.free.set()
        self.open = asyncio.Event()
        self.open.set()
        self.disk = asyncio.Event()  # it is as slow as the test says
        self.disk.set()

    async def step(self, version, *refs):
        self.events.append(f"step {version} on {','.join(refs)}")
        if self.step_error:
            raise self.step_error
        kept = [ref.removeprefix("g") for ref in refs]
        refused = self.refusals.pop(0)(kept) if self.refusals else []
        if len(refused) == len(refs):
            raise BatchRefusedError(refused)
        await self.free.wait()
        self.version += 1
        self.events.append(f"weights {self.version}")
        metrics = {"reward/mean": 0.0, "learner/step_seconds": 0.0}
        return metrics | {"refused": [dataclasses.asdict(refusal) for refusal in refused]}

    async def hold(self):
        self.free.clear()

    async def publish(self):
        await self.open.wait()
        if self.version and self.faults:
            raise self.faults.pop(0)
        self.events.append(f"publish {self.version}")
        self.free.set()
        return Publication(self.version, self.lost.pop(self.version, {}))

    async def connect(self):
        pass

    async def snapshot(self, state):
        self.events.append(f"snapshot {state['steps']}")

    async def write(self, directory):
        await self.disk.wait()
        (Path(directory) / "training" / "rank-0.safetensors").touch()
        self.events.append(f"written {Path(directory).name}")

    async def close(self):
        pass

    def kill(self):
        self.events.append("kill learner")


class MortalRank(Rank):
    """A rank whose process dies at the `at`-th call of a method, and all who wait for it know."""

    def __init__(self, events, method, at=1, **settings):
        super().__init__(events, **settings)
        self.method, self.calls_left, self.dead = method, at, False

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if name not in ("step", "hold", "publish", "snapshot", "write", "connect"):
            return found

        async def call(*args):
            if name == self.method:
                self.calls_left -= 1
                self.dead = self.dead or not self.calls_left
            if self.dead:
                raise PeerLostError("the learner died\nand Ray says much more")
            return await found(*args)

        return call


class Worker:
    """Hands in groups of 10 tokens as fast as there are slots; may fail at its first `run`.

    `scores` are those of evaluations beside training, in turn; an event has to come first.
    """

    def __init__(self, name, error=None, idle=False, scores=()):
        self.name, self.error, self.idle = name, error, idle
        self.scores = list(scores)

    async def run(self, buffer):
        while True:
            admission = await buffer.admit(self.name)
            if self.error:
                raise self.error
            if self.idle:
                continue
            group = admission.group_id
            meta = GroupMeta(2, 2, 10, admission.version)
            await buffer.add(group, (f"g{group}",), meta)

    async def evaluate(self, share, shares, spare=None):
        correct = 1.0
        if spare:
            correct = self.scores.pop(0)
            while isinstance(correct, asyncio.Event):
                await correct.wait()
                correct = self.scores.pop(0)
            if isinstance(correct, Exception):
                raise correct
        return [EpisodeResult("t", "hop1", 1.0, {"correct": correct}, "answered", 1, "x")]

    async def update_samplers(self, samplers):
        pass

    async def unreported_tokens(self):
        return 3

    async def disk_full(self):
        return False

    async def activity(self):
        return {"slot": (1, 2.0), "sampler": (8, 1.0)}

    async def time_spent(self):
        return {"slot": 1.0, "sampler": 3.0}

    async def episode_counts(self):
        return {"episodes/ended": {"answered": 2}}, {"Search": {"0.25": 1}}

    async def close(self):
        pass


class ExecutorHub:
    """A hub whose run has spent its budget when a test says so."""

    paused = ""

    async def status(self):
        return {"usage": [], "backends": {}, "paused": self.paused, "cache": {}}


class Placing:
    """Holds any run; knows who has given a place back."""

    def __init__(self):
        self.released = []
        self.leaving = {}
        self.free = 0

    def going(self):
        return dict(self.leaving)

    def room(self):
        free, self.free = self.free, 0
        return free

    def release(self, name):
        self.released.append(name)

    def keep_away(self, closed):
        self.closed = closed

    async def prepare(self):
        pass


class Topology:
    """Fake processes in this event loop."""

    starting = "starting"
    processes: ClassVar = {}

    def __init__(self, config, events, rank, workers):
        self.events, self.spare = events, workers
        self.hub = ExecutorHub()
        self.placing = Placing()
        self.ranks = [rank]
        self.spare_ranks = []
        self.stuck = set()
        self.failing = 0  # samplers that will not start
        self.dies_at_start = False
        self.buffer_died = "buffer died" in workers[0].name
        self.slow = asyncio.Event()  # engines come up when it is set
        self.slow.set()
        self.workers = [workers.pop(0)]
        self.started = []
        buffer = config.buffer
        self.real = ReplayBuffer(
            Rules(buffer.max_lag, config.train.groups_per_batch, buffer.window)
        )
        self.buffer = Remote(self.real, events)

    async def find_director(self, *, resumed=False):
        pass

    async def warm_director(self, progress):
        return False

    async def start_others(self):
        if self.dies_at_start:
            self.events.append("learner died")
            raise PeerLostError("the learner died")

    async def load_learner(self, version=0, checkpoint=None):
        self.events.append(f"load {self.real.version}")
        self.ranks[0].version = self.real.version

    async def start_ranks(self):
        self.ranks = [self.spare_ranks.pop(0) if self.spare_ranks else Rank(self.events)]

    async def start_sampler(self, name):
        if name in self.stuck:
            await asyncio.Event().wait()
        await self.slow.wait()
        if self.failing:
            self.failing -= 1
            raise PeerLostError("no place")
        self.started.append(Sampler(name, self.events))
        return self.started[-1]

    async def connect(self, samplers):
        await together(self.ranks, "connect")
        self.events.append(f"connect {','.join(samplers)}")

    async def tell_workers(self, samplers):
        self.events.append(f"workers know {','.join(samplers) or 'nobody'}")

    async def bury_worker(self, index):
        if self.buffer_died:
            raise PeerLostError("the buffer died")
        await self.buffer.requeue(self.workers[index].name)

    async def replace_worker(self, index, samplers):
        self.workers[index] = self.spare.pop(0)
        self.events.append("worker replaced")
        self.events.append(f"new worker knows {','.join(samplers)}")

    async def shutdown(self, keep=()):
        self.events.append(f"shut down, keep {','.join(keep)}" if keep else "shut down")


def _run(tmp_path, *, rank=None, workers=None, meanwhile=None, survivors=None, **settings):
    """Execute a run over fakes; returns (events, summary.json, error)."""
    chosen = {"steps": 3, "max_lag": 1, "overlap": True, "samplers": 1, "checkpoint_every": 0}
    chosen |= {"eval_every": 0, "best": {}, "supervision": {}, "failing": 0}
    chosen |= settings
    config = parse_config(
        {
            "run": {"name": "r", "dir": str(tmp_path)},
            "buffer": {"max_lag": chosen["max_lag"]},
            "sampler": {
                "count": chosen["samplers"],
                "max": chosen.get("most"),
                "colocated": chosen.get("colocated", False),
            },
            "weights": {"overlap": chosen["overlap"]},
            "train": {
                "steps": chosen["steps"],
                "groups_per_batch": 2,
                "checkpoint_every": chosen["checkpoint_every"],
                "eval_every": chosen["eval_every"],
            },
            "best": chosen["best"],
            "supervision": chosen["supervision"],
        }
    )
    events = []
    directory = RunDirectory(config)

    async def main():
        first = (rank or Rank)(events)
        topology = Topology(config, events, first, workers or [Worker("w")])
        topology.failing = chosen["failing"]
        topology.dies_at_start = "dies_at_start" in chosen
        if topology.dies_at_start:
            topology.slow.clear()
        metrics = RunMetrics(CollectorRegistry())
        run = Run(
            *(config, directory, topology, Progress(quiet=True), metrics), survivors=survivors
        )
        other = asyncio.create_task(meanwhile(run, topology)) if meanwhile else None
        try:
            async with asyncio.timeout(20):
                await run.execute()
            error = None
        except RunFailedError as failure:
            error = failure
        if other:
            await other
        topology.real.check_valid()
        return error

    error = asyncio.run(main())
    directory.close()
    return events, json.loads((tmp_path / "r" / "summary.json").read_text()), error


def _training(events):
    return [e for e in events if e.split()[0] in ("step", "publish", "published")]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_slot_is_freed_only_after_its_step_is_published(tmp_path, overlap):
    """Synchronously there is nothing to overlap: the next batch waits for the publication."""
    events, summary, error = _run(tmp_path, steps=3, max_lag=0, overlap=overlap)
    assert error is None
    assert _training(events) == [
        "publish 0",
        *("step 0 on g0,g1", "publish 1", "published 1"),
        *("step 1 on g2,g3", "publish 2", "published 2"),
        *("step 2 on g4,g5", "publish 3", "published 3"),
    ]
    assert events[:4] == ["load 0", "connect sampler-0", "publish 0", "workers know sampler-0"]
    assert events[-2:] == ["written .3.writing", "shut down"]
    assert summary["status"] == "done"
    assert summary["tokens_consumed"] == 60
    assert summary["tokens_discarded"]["run_ended"] == 3
    spent = summary["tokens_consumed"] + summary["tokens_waiting"] + 3
    assert summary["tokens_generated"] == spent


def _nights(events):
    """Who sleeps, and what is done meanwhile: by the words that the events begin with."""
    return [e for e in events if e.split()[0] in ("doze", "step", "weights", "wake", "publish")]


def test_colocated_samplers_sleep_during_each_step_and_no_weights_are_sent_to_them(tmp_path):
    events, _, error = _run(tmp_path, steps=2, max_lag=2, samplers=2, overlap=None, colocated=True)
    assert error is None
    night = ["doze sampler-0", "doze sampler-1", None, None, "wake sampler-0", "wake sampler-1"]
    expected = ["publish 0"]
    for version in (0, 1):
        groups = f"g{2 * version},g{2 * version + 1}"
        night[2:4] = [f"step {version} on {groups}", f"weights {version + 1}"]
        expected += [*night, f"publish {version + 1}"]
    assert _nights(events) == expected


def test_colocated_samplers_wake_when_the_learner_dies_and_sleep_while_a_new_one_catches_up(
    tmp_path, monkeypatch
):
    entries = [Entry(group, 0, (f"g{group}",), GroupMeta(2, 2, 10, 0)) for group in (0, 1)]
    batch = Batch(0, 0, tuple(entries))
    monkeypatch.setattr("cluster.training.steps_since", lambda *_, **__: {0: batch})
    events, summary, error = _run(
        tmp_path,
        rank=lambda e: MortalRank(e, "step", 2),
        steps=2,
        max_lag=2,
        overlap=None,
        colocated=True,
    )
    assert error is None
    assert summary["steps"] == 2
    died = events.index("kill learner")
    assert _nights(events[:died])[-2:] == ["doze sampler-0", "wake sampler-0"]
    after = _nights(events[died:])
    assert [each.split()[0] for each in after] == ["doze", "step", "weights", "wake", "publish"] * 2
    assert next(each for each in after if each.startswith("step")) == "step 0 on g0,g1"


def test_a_dead_sampler_keeps_no_step_from_being_taken(tmp_path):
    async def meanwhile(run, topology):
        await settle(lambda: "workers know sampler-0,sampler-1" in topology.events)
        topology.started[0].dead.set()

    events, summary, error = _run(
        tmp_path, samplers=2, overlap=None, colocated=True, meanwhile=meanwhile
    )
    assert error is None
    assert summary["steps"] == 3
    assert "doze sampler-1" in events


def _all(groups):
    return [Refusal(group, "not_finite", f"trajectory {group}/0, turn 1: nan") for group in groups]


def _first(groups):
    return [Refusal(groups[0], "invalid", f"trajectory {groups[0]}/0: the reward is nan")]


def _records(tmp_path, kind):
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_the_phases_of_the_training_loop_add_up_and_workers_are_asked(tmp_path):
    _run(tmp_path, steps=3)
    steps = _records(tmp_path, "step")
    seconds = [sum(step["seconds/training_loop"].values()) for step in steps]
    assert seconds == sorted(seconds)
    elapsed = steps[-1]["time"] - steps[0]["time"]
    assert 0 < seconds[-1] - seconds[0] < elapsed + 0.5
    assert [step["seconds/workers"]["sampler"] for step in steps] == [3.0, 6.0, 9.0]


def test_a_batch_that_cannot_be_trained_on_is_set_aside_and_the_run_goes_on(tmp_path):
    refusals = [_all, lambda groups: [], _all]
    events, summary, error = _run(
        tmp_path, steps=2, max_lag=0, rank=lambda e: Rank(e, refusals=refusals)
    )
    assert error is None
    assert _training(events) == [
        "publish 0",
        "step 0 on g0,g1",
        *("step 0 on g2,g3", "publish 1", "published 1"),
        "step 1 on g4,g5",
        *("step 1 on g6,g7", "publish 2", "published 2"),
    ]
    assert (summary["status"], summary["steps"], summary["tokens_consumed"]) == ("done", 2, 40)
    assert summary["tokens_discarded"] == {"not_finite": 40, "run_ended": 3}
    first, second = _records(tmp_path, "refused")
    assert first["groups"] == {
        "0": "not_finite: trajectory 0/0, turn 1: nan",
        "1": "not_finite: trajectory 1/0, turn 1: nan",
    }
    assert second["groups/refused"] == {"not_finite": 4}


def test_groups_that_cannot_be_trained_on_leave_the_others_their_step(tmp_path):
    events, summary, error = _run(
        tmp_path, steps=2, max_lag=0, rank=lambda e: Rank(e, refusals=[_first])
    )
    assert error is None
    assert [e for e in events if e.startswith("step")] == ["step 0 on g0,g1", "step 1 on g2,g3"]
    assert (summary["steps"], summary["tokens_consumed"]) == (2, 30)
    assert summary["tokens_discarded"] == {"invalid": 10, "run_ended": 3}
    assert [record["groups/refused"] for record in _records(tmp_path, "refused")] == [
        {"invalid": 1}
    ]


def test_ten_refused_batches_in_a_row_stop_the_run_with_advice(tmp_path):
    nine = [_all] * 9 + [lambda groups: []]
    events, summary, error = _run(
        tmp_path, steps=9, rank=lambda e: Rank(e, refusals=nine + [_first, _all] * 5)
    )
    assert "10 batches in a row" in str(error)
    assert "trajectory" in str(error)
    assert "learner.lr" in str(error)
    assert "learner.max_refusals" in str(error)
    assert (summary["status"], summary["reason"]) == ("failed", str(error))
    assert events.count("published 1") == 1
    assert len(_records(tmp_path, "refused")) == 19


def test_a_failed_publication_replaces_the_samplers_and_is_repeated(tmp_path):
    """Nobody knows which sampler it was: all of them go."""
    fault = PublishError("version 1: a sampler died")
    events, summary, error = _run(tmp_path, rank=lambda e: Rank(e, [fault]), overlap=False)
    assert error is None
    assert summary["steps"] == 3
    assert [lost.split(":")[0] for lost in summary["samplers_lost"]] == ["sampler-0"]
    first = events.index("weights 1")
    assert events[first + 1 : first + 6] == [
        "workers know nobody",
        "connect sampler-1",
        "publish 1",
        "workers know sampler-1",
        "publish 1",
    ]


def test_a_sampler_to_blame_is_lost_alone_and_the_others_get_the_version_at_once(tmp_path):
    fault = PublishError("version 1: sampler-1 died", {"sampler-1": "died"})
    events, summary, error = _run(
        tmp_path, rank=lambda e: Rank(e, [fault]), overlap=False, samplers=3
    )
    assert error is None
    assert summary["samplers_lost"] == ["sampler-1: died"]
    first = events.index("weights 1")
    assert events[first + 1 : first + 5] == [
        "connect sampler-0,sampler-2",
        "publish 1",
        "workers know sampler-0,sampler-2",
        "published 1",
    ]
    assert "connect sampler-0,sampler-2,sampler-3" in events


def test_a_sampler_lost_in_phase_two_delays_nothing(tmp_path):
    """The others have the version already: it is published, and nothing is sent twice before."""
    events, summary, error = _run(
        tmp_path,
        rank=lambda e: Rank(e, lost={1: {"sampler-0": "died between the phases"}}),
        overlap=False,
        samplers=2,
    )
    assert error is None
    assert summary["steps"] == 3
    assert summary["samplers_lost"] == ["sampler-0: died between the phases"]
    first = events.index("weights 1")
    assert events[first + 1 : first + 3] == ["publish 1", "published 1"]


def test_the_next_step_runs_beside_the_publication_but_its_weights_wait(tmp_path):
    """With overlap, step 1 starts before version 1 is sent; version 2 is made after that."""
    seen = []

    class Slow(Rank):
        async def publish(self):
            if self.version == 1:
                while "step 1 on g2,g3" not in self.events:
                    await asyncio.sleep(0)
                seen.extend(self.events)
            return await super().publish()

    events, summary, error = _run(tmp_path, rank=Slow, max_lag=2)
    assert error is None
    assert "publish 1" not in seen
    assert "weights 2" not in seen
    assert events.index("publish 1") < events.index("weights 2") < events.index("publish 2")
    assert events.index("published 1") < events.index("publish 2") < events.index("published 2")
    assert summary["max_lag_seen"] <= 2


def test_a_failed_publication_beside_a_step_is_repeated_before_the_weights_change(tmp_path):
    fault = PublishError("version 1: a sampler died")
    events, summary, error = _run(tmp_path, rank=lambda e: Rank(e, [fault]), max_lag=2)
    assert error is None
    assert summary["steps"] == 3
    assert events.index("step 1 on g2,g3") < events.index("connect sampler-1")
    assert events.index("connect sampler-1") < events.index("publish 1") < events.index("weights 2")


def test_a_checkpoint_is_of_a_published_version(tmp_path):
    """Nothing overlaps where a checkpoint is due."""
    events, _, error = _run(tmp_path, steps=4, max_lag=3, checkpoint_every=2)
    assert error is None
    around = events.index("snapshot 2")
    assert events[around - 1] == "published 2"
    assert "step 2 on g4,g5" not in events[:around]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """The next checkpoint waits for it, and the run does not end before it is whole."""

    async def slow(run, topology):
        topology.ranks[0].disk.clear()
        while "published 3" not in topology.events:
            await asyncio.sleep(0)
        assert "written .2.writing" not in topology.events
        topology.ranks[0].disk.set()

    events, _, error = _run(tmp_path, steps=5, checkpoint_every=2, meanwhile=slow)
    assert error is None
    assert events.index("published 3") < events.index("written .2.writing")
    assert events.index("written .2.writing") < events.index("snapshot 4")
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir()) == ["2", "4", "5"]


def test_a_learner_that_dies_over_a_checkpoint_goes_on_from_the_one_before(tmp_path):
    events, summary, error = _run(
        tmp_path, steps=5, checkpoint_every=2, rank=lambda e: MortalRank(e, "write", 2)
    )
    assert error is None
    assert (summary["steps"], summary["learner_restarts"]) == (5, 1)
    assert events.index("written .2.writing") < events.index("kill learner")
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").glob("[0-9]*")) == ["2", "5"]


def test_samplers_that_keep_dying_end_the_run(tmp_path):
    faults = [PublishError("no")] * 10
    _, summary, error = _run(tmp_path, rank=lambda e: Rank(e, faults))
    assert "samplers were lost without a step between them" in str(error)
    assert summary["status"] == "failed"
    assert summary["reason"] == str(error)


class EarlyRank(Rank):
    """A rank whose first publications, before any step, fail with `early` in turn."""

    def __init__(self, events, *early):
        super().__init__(events)
        self.early = list(early)

    async def publish(self):
        if self.early:
            raise self.early.pop(0)
        return await super().publish()


def test_a_sampler_that_is_lost_over_the_first_join_is_replaced_before_the_run_begins(tmp_path):
    fault = PublishError("version 0: sampler-0 died", {"sampler-0": "died"})
    events, summary, error = _run(tmp_path, rank=lambda e: EarlyRank(e, fault))
    assert error is None
    assert (summary["steps"], summary["samplers_lost"]) == (3, ["sampler-0: died"])
    assert events[:5] == [
        "load 0",
        "connect sampler-0",
        "connect sampler-1",
        "publish 0",
        "workers know sampler-1",
    ]


def test_a_first_join_that_fails_without_a_loss_is_tried_twice(tmp_path):
    fault = PublishError("2/3 clients joined")
    events, summary, error = _run(tmp_path, rank=lambda e: EarlyRank(e, fault))
    assert error is None
    assert (summary["steps"], summary["samplers_lost"]) == (3, [])
    assert events[:4] == ["load 0", "connect sampler-0", "connect sampler-0", "publish 0"]
    events, summary, error = _run(tmp_path / "b", rank=lambda e: EarlyRank(e, fault, fault))
    assert not isinstance(error, ProcessLostError)
    assert summary["reason"] == str(error) == "2/3 clients joined"


def test_samplers_that_keep_dying_over_the_first_join_end_the_run(tmp_path):
    faults = [PublishError("no", {f"sampler-{number}": "died"}) for number in range(9)]
    _, summary, error = _run(tmp_path, rank=lambda e: EarlyRank(e, *faults))
    assert "4 samplers were lost without a step between them" in str(error)
    assert summary["status"] == "failed"


def test_a_learner_that_dies_over_the_first_join_costs_a_restart_and_not_the_run(tmp_path):
    events, summary, error = _run(tmp_path, rank=lambda e: MortalRank(e, "connect"))
    assert isinstance(error, ProcessLostError)
    assert "the learner died" in summary["reason"]
    assert events[-1] == "shut down"


def test_the_last_checkpoint_is_whole_before_the_last_evaluation_begins(tmp_path):
    """The evaluation can take long, and a run that is killed in it has all its steps."""
    checkpoints = tmp_path / "r" / "checkpoints"

    class Late(Worker):
        async def evaluate(self, share, shares, spare=None):
            seen.append([path.name for path in checkpoints.glob("[0-9]*")])
            return await super().evaluate(share, shares, spare)

    seen = []
    _, _, error = _run(tmp_path, workers=[Late("w")])
    assert error is None
    assert seen == [[], ["3"]]


def test_a_sampler_that_dies_between_publications_is_replaced(tmp_path):
    async def kill(run, topology):
        while "published 1" not in topology.events:
            await asyncio.sleep(0)
        topology.started[0].dead.set()

    events, summary, error = _run(tmp_path, steps=200, meanwhile=kill)
    assert error is None
    assert summary["steps"] == 200
    assert summary["samplers_lost"] == ["sampler-0: sampler-0 died"]
    assert "workers know sampler-1" in events


def test_a_dead_worker_is_replaced_and_holds_no_slot(tmp_path):
    workers = [Worker("a", error=PeerLostError("gone")), Worker("b")]
    events, summary, error = _run(tmp_path, workers=workers)
    assert error is None
    assert summary["worker_restarts"] == 1
    assert events.count("worker replaced") == 1


def test_a_worker_that_ends_because_the_buffer_has_died_is_not_replaced_again_and_again(tmp_path):
    """The run starts anew, before its budget for workers is spent."""
    workers = [Worker("buffer died", error=PeerLostError("no answer"))]
    _events, summary, error = _run(tmp_path, workers=workers)
    assert isinstance(error, ProcessLostError)
    assert "the buffer died" in summary["reason"]
    assert summary["worker_restarts"] == 1


def _published(events):
    return [e for e in events if e.startswith("published")]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(
    ("method", "at"), [("step", 1), ("step", 3), ("hold", 2), ("publish", 2), ("publish", 3)]
)
def test_a_dead_learner_is_restarted_and_no_batch_is_lost_or_counted_twice(
    tmp_path, overlap, method, at
):
    events, summary, error = _run(
        tmp_path, rank=lambda e: MortalRank(e, method, at), overlap=overlap, max_lag=2, steps=5
    )
    assert error is None
    assert _published(events) == [f"published {n}" for n in range(1, 6)]
    assert (summary["steps"], summary["learner_restarts"]) == (5, 1)
    assert summary["tokens_consumed"] == 5 * 2 * 10
    assert summary["max_lag_seen"] <= 2
    assert summary["samplers_lost"] == []
    restart = events.index("kill learner")
    before = _published(events[:restart])
    after = events[restart:]
    assert f"load {len(before)}" in after
    steps = [e for e in after if e.startswith("step")]
    assert steps[0].startswith(f"step {len(before)} ")
    assert [e.split()[1] for e in steps] == [str(n) for n in range(len(before), 5)]
    assert after.index("workers know sampler-0") < after.index(steps[0])
    (lost,) = _records(tmp_path, "learner_lost")
    assert lost["learner/restarts"] == 1


class Forgetful(Rank):
    """Its second step finds that its groups have gone with their machine."""

    async def step(self, version, *refs):
        if version == 1 and refs[0].startswith("g"):
            self.events.append("groups are gone")
            raise DataLostError("gone")
        return await super().step(version, *refs)


def test_groups_that_have_gone_with_their_machine_are_read_from_the_journal(tmp_path, monkeypatch):
    journal = {group: f"j{group}" for group in range(100)}
    monkeypatch.setattr("cluster.training.journal_records", lambda run: journal)
    events, summary, error = _run(tmp_path, rank=Forgetful, max_lag=1, steps=3)
    assert error is None
    assert "groups are gone" in events
    steps = [e for e in events if e.startswith("step")]
    assert steps == ["step 0 on g0,g1", "step 1 on j2,j3", "step 2 on g4,g5"]
    assert (summary["steps"], summary["learner_restarts"]) == (3, 0)


def test_groups_that_are_in_no_journal_either_end_the_run_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.training.journal_records", lambda run: {})
    _events, summary, error = _run(tmp_path, rank=Forgetful, max_lag=1, steps=3)
    assert "group 2 has gone with its machine" in str(error)
    assert summary["status"] == "failed"


def test_the_unpublished_steps_are_taken_again_on_the_same_batches(tmp_path):
    """It dies in the third step, while the second is being published, which it fails to be."""

    class DiesInBoth(MortalRank):
        async def publish(self):
            if self.version == 2:
                while not self.dead:
                    await asyncio.sleep(0)
                raise PeerLostError("the learner died")
            return await super().publish()

    events, _summary, error = _run(
        tmp_path, rank=lambda e: DiesInBoth(e, "step", 3), max_lag=3, steps=4
    )
    assert error is None
    steps = [e for e in events if e.startswith("step")]
    assert steps == [
        *("step 0 on g0,g1", "step 1 on g2,g3"),
        *("step 1 on g2,g3", "step 2 on g4,g5", "step 3 on g6,g7"),
    ]
    assert _published(events) == [f"published {n}" for n in range(1, 5)]


def test_refusals_that_were_booked_before_the_learner_died_are_booked_once(tmp_path):
    class AlwaysRefuses(Rank):
        async def step(self, version, *refs):
            self.refusals = [_first] if version == 1 else []
            return await super().step(version, *refs)

    class Dies(MortalRank, AlwaysRefuses):
        pass

    async def spare(run, topology):
        topology.spare_ranks.append(AlwaysRefuses(topology.events))

    _, summary, error = _run(
        tmp_path,
        rank=lambda e: Dies(e, "publish", 3),
        max_lag=2,
        overlap=False,
        steps=3,
        meanwhile=spare,
    )
    assert error is None
    assert summary["tokens_consumed"] == 50
    assert summary["tokens_discarded"] == {"invalid": 10, "run_ended": 3}
    assert len(_records(tmp_path, "refused")) == 1


def test_a_learner_that_is_found_dead_while_the_run_waits_for_groups_is_restarted(tmp_path):
    """No step would notice: the mender does, when it joins a new sampler."""

    class Hungry(Worker):
        async def run(self, buffer):
            while "connect sampler-1" not in self.events:
                await asyncio.sleep(0)
            await super().run(buffer)

    worker = Hungry("w")

    async def kill(run, topology):
        worker.events = topology.events
        while "workers know sampler-0" not in topology.events:
            await asyncio.sleep(0)
        topology.ranks[0].dead = True
        topology.started[0].dead.set()

    _events, summary, error = _run(
        tmp_path, rank=lambda e: MortalRank(e, "never"), workers=[worker], meanwhile=kill
    )
    assert error is None
    assert (summary["steps"], summary["learner_restarts"]) == (3, 1)
    assert summary["samplers_lost"] == ["sampler-0: sampler-0 died"]


@pytest.mark.parametrize("over", ["snapshot", "write"])
def test_a_learner_that_dies_over_the_last_checkpoint_writes_it_after_its_restart(tmp_path, over):
    events, summary, error = _run(tmp_path, rank=lambda e: MortalRank(e, over))
    assert error is None
    assert [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()] == ["3"]
    assert events[-2:] == ["written .3.writing", "shut down"]
    assert (summary["status"], summary["learner_restarts"]) == ("done", 1)


def test_a_learner_that_keeps_dying_ends_the_run_with_the_reason(tmp_path):
    async def spare(run, topology):
        topology.spare_ranks.extend(MortalRank(topology.events, "step") for _ in range(9))

    events, summary, error = _run(tmp_path, rank=lambda e: MortalRank(e, "step"), meanwhile=spare)
    assert "the learner was lost 4 times without a step between" in str(error)
    assert "the learner died" in str(error)
    assert "much more" not in str(error)
    assert summary["status"] == "failed"
    assert events[-1] == "shut down"


def test_the_first_error_among_the_ranks_need_not_be_that_of_the_dead_one():
    class Dead:
        async def step(self):
            await asyncio.sleep(0.01)
            raise PeerLostError("rank 1 died")

    class Collective:
        def __init__(self, text):
            self.text = text

        async def step(self):
            raise RuntimeError(self.text)

    class Stuck:
        async def step(self):
            await asyncio.Event().wait()

    def call(*ranks):
        return asyncio.run(together(ranks, "step"))

    with pytest.raises(LearnerLostError, match="rank 1 died"):
        call(Collective("something odd"), Dead())
    with pytest.raises(LearnerLostError, match="rank 1 died"):
        call(Stuck(), Dead())
    with pytest.raises(LearnerLostError, match="Timed out"):
        call(Collective("[../gloo/transport/tcp/pair.cc] Timed out waiting"))
    with pytest.raises(RuntimeError, match="a bug"):
        call(Collective("a bug"))


def test_what_a_worker_raises_ends_the_run(tmp_path):
    worker = Worker("w", error=RepeatedFailureError("ten tasks in a row"))
    events, summary, error = _run(tmp_path, workers=[worker])
    assert str(error) == summary["reason"] == "ten tasks in a row"
    assert events[-1] == "shut down"


def test_an_evaluation_beside_training_stops_nothing(tmp_path):
    """It ends long after the step at which it began; one that is due meanwhile is left out."""
    held = asyncio.Event()

    async def let_go(run, topology):
        while "published 5" not in topology.events:
            await asyncio.sleep(0)
        held.set()

    worker = Worker("w", scores=[held, 0.25, 0.5, 0.5, 0.5])
    events, summary, error = _run(
        tmp_path, workers=[worker], steps=9, eval_every=2, meanwhile=let_go
    )
    assert error is None
    assert summary["evaluations_left_out"] >= 1
    first, beside, *_ = _records(tmp_path, "eval")
    assert (first["em"], first["version"]) == (1.0, 0)
    assert (beside["em"], beside["version"]) == (0.25, 2)
    assert beside["last_version"] >= 5
    assert _published(events) == [f"published {n}" for n in range(1, 10)]


def test_the_best_version_is_kept_and_named(tmp_path):
    runs = []

    class Slow(Rank):
        """Lets the evaluation of each version end, however slow the disk is."""

        async def step(self, version, *refs):
            evaluation = runs[0]._evaluating.spare._task if runs else None
            while evaluation is not None and not evaluation.done():
                await asyncio.sleep(0.001)
            return await super().step(version, *refs)

    class Starts(Worker):
        async def evaluate(self, share, shares, spare=None):
            (episode,) = await super().evaluate(share, shares, spare)
            if not spare:
                episode = dataclasses.replace(episode, reward_parts={"correct": 0.1})
            return [episode]

    async def keep(run, topology):
        runs.append(run)

    worker = Starts("w", scores=[0.2, 0.9, 0.3, 0.3, 0.3])
    events, summary, error = _run(
        tmp_path,
        rank=Slow,
        workers=[worker],
        steps=20,
        eval_every=2,
        best={"score": "em", "patience": 2},
        meanwhile=keep,
    )
    assert error is None
    assert (summary["status"], summary["best_version"], summary["best_score"]) == ("done", 4, 0.9)
    assert "no better em than 0.9 (version 4) in 2 evaluations" in summary["ended_early"]
    assert 8 <= summary["steps"] < 20
    assert (tmp_path / "r" / "checkpoints" / "best").resolve().name == "4"
    assert [e for e in events if e.startswith("snap")][:2] == ["snapshot 2", "snapshot 4"]


def test_an_unknown_score_ends_the_run_before_it_trains(tmp_path):
    events, summary, error = _run(tmp_path, eval_every=1, best={"score": "f1"})
    assert "best.score='f1'" in str(error)
    assert not [e for e in events if e.startswith("step")]
    assert summary["status"] == "failed"


def test_a_worker_that_dies_over_an_evaluation_costs_the_evaluation(tmp_path):
    worker = Worker("w", scores=[PeerLostError("gone"), 0.5, 0.5, 0.5])
    _, summary, error = _run(tmp_path, workers=[worker], steps=6, eval_every=2)
    assert error is None
    assert (summary["steps"], summary["evaluations_left_out"] >= 1) == (6, True)


async def _stop(run):
    for _ in range(200):
        await asyncio.sleep(0)
    run.stop()


def test_stopping_while_waiting_for_a_batch_writes_a_checkpoint(tmp_path):
    events, summary, error = _run(
        tmp_path,
        workers=[Worker("w", idle=True)],
        meanwhile=lambda run, topology: _stop(run),
    )
    assert error is None
    assert summary["status"] == "stopped"
    assert summary["steps"] == 0
    assert events[-2:] == ["written .0.writing", "shut down"]


def test_a_run_that_has_spent_its_budget_pauses(tmp_path, monkeypatch):
    async def spend(run, topology):
        for _ in range(200):
            await asyncio.sleep(0)
        topology.hub.paused = "executor.budget.run.usd=1"

    monkeypatch.setattr("cluster.executors.WATCH_S", 0.01)
    events, summary, error = _run(tmp_path, workers=[Worker("w", idle=True)], meanwhile=spend)
    assert error is None
    assert summary["status"] == "paused"
    assert summary["reason"] == "executor.budget.run.usd=1 is reached"
    assert "em_after" not in summary
    assert events[-2:] == ["written .0.writing", "shut down"]


def test_stopping_before_training_ends_at_once(tmp_path):
    class Slow(Worker):
        async def evaluate(self, share, shares, spare=None):
            await asyncio.Event().wait()

    events, summary, error = _run(
        tmp_path, workers=[Slow("w")], meanwhile=lambda run, topology: _stop(run)
    )
    assert error is None
    assert summary["status"] == "stopped"
    assert "em_before" not in summary
    assert events[-1] == "shut down"


def test_a_run_that_takes_no_step_says_who_holds_it_up(tmp_path):
    """Once, at first: then at twice the time."""
    _, summary, error = _run(
        tmp_path,
        workers=[Worker("w", idle=True)],
        supervision={"stall_s": 0.2, "heartbeat_s": 0.02},
        meanwhile=_until_stalled,
    )
    assert error is None
    assert summary["status"] == "stopped"
    first, *_ = _records(tmp_path, "stall")
    assert first["stall/count"] == 1
    assert first["stall/seconds"] >= 0.2
    assert first["why"].startswith("training loop waits for groups")
    assert first["why"].endswith(
        " ← buffer has slots: 0 free, 4 being played, 0 finished, 0 taken"
        " ← worker-0 has 8 episodes that wait for a sampler for 1 s"
        " ← sampler-0 answers, and has 8 requests"
    )


async def _until_stalled(run, topology):
    while not run._supervision.stalls.count:
        await asyncio.sleep(0.01)
    run.stop()


def test_a_run_that_stands_for_too_long_starts_anew(tmp_path):
    _, summary, error = _run(
        tmp_path,
        workers=[Worker("w", idle=True)],
        supervision={"stall_s": 0.1, "heartbeat_s": 0.02, "restart_s": 0.3},
    )
    assert isinstance(error, ProcessLostError)
    assert "supervision.restart_s=0.3: training loop waits for groups" in str(error)
    assert summary["status"] == "failed"


def test_without_the_hub_all_processes_start_anew(tmp_path):
    """A worker sees it; other faults of executors end the run for good."""
    workers = [Worker("w", error=HubLostError("the hub has died"))]
    _events, summary, error = _run(tmp_path, workers=workers)
    assert isinstance(error, ProcessLostError)
    assert "the hub has died" in summary["reason"]
    workers = [Worker("w", error=BackendConfigError("no key"))]
    _events, summary, error = _run(tmp_path / "other", workers=workers)
    assert not isinstance(error, ProcessLostError)
    assert summary["reason"] == "no key"


def test_samplers_outlive_a_run_that_starts_anew_and_get_its_weights_first(tmp_path):
    """All but one that answers no more."""

    async def kill_one(run, topology):
        while "connect sampler-0,sampler-1,sampler-2" not in topology.events:
            await asyncio.sleep(0)
        topology.started[1].ping = topology.started[1].hang

    survivors = Survivors()
    events, _, error = _run(
        tmp_path / "a",
        workers=[Worker("w", error=HubLostError("the hub has died"))],
        samplers=3,
        survivors=survivors,
        meanwhile=kill_one,
        supervision={"silent_s": 0.2, "heartbeat_s": 0.1},
    )
    assert isinstance(error, ProcessLostError)
    assert events[-1] == "shut down, keep sampler-0,sampler-2"
    assert list(survivors.samplers) == ["sampler-0", "sampler-2"]
    events, summary, error = _run(tmp_path / "b", samplers=3, survivors=survivors)
    assert error is None
    assert summary["samplers_lost"] == []
    assert events[:3] == ["load 0", "connect sampler-0,sampler-2,sampler-3", "publish 0"]
    assert events[-1] == "shut down"


def test_samplers_outlive_a_run_of_a_sweep_that_ended_well(tmp_path):
    """The next one joins them before it starts any."""
    survivors = Survivors(lasting=True)
    events, _, error = _run(tmp_path / "a", samplers=2, survivors=survivors)
    assert (error, events[-1]) == (None, "shut down, keep sampler-0,sampler-1")
    assert survivors.logs == str(tmp_path / "a/r/logs")
    events, _, error = _run(tmp_path / "b", samplers=2, survivors=survivors)
    assert error is None
    assert events[:3] == ["load 0", "connect sampler-0,sampler-1", "publish 0"]


def test_a_run_of_a_sweep_that_is_told_to_stop_ends_its_samplers(tmp_path):
    survivors = Survivors(lasting=True)
    _, summary, error = _run(
        tmp_path, survivors=survivors, meanwhile=lambda run, _: _stop(run), steps=500
    )
    assert (error, summary["status"], survivors.samplers) == (None, "stopped", {})


def test_engines_that_are_starting_when_a_learner_dies_come_up_and_are_kept(tmp_path):
    """They would have to be started again."""

    async def free(run, topology):
        while "learner died" not in topology.events:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not topology.started
        topology.slow.set()

    survivors = Survivors()
    events, _, error = _run(tmp_path, survivors=survivors, meanwhile=free, dies_at_start=True)
    assert isinstance(error, ProcessLostError)
    assert events == ["learner died", "shut down, keep sampler-0"]


def test_samplers_that_do_not_come_up_are_started_again_before_the_run_begins(tmp_path):
    events, summary, error = _run(tmp_path, samplers=2, failing=2)
    assert error is None
    assert summary["samplers_lost"] == ["sampler-0: no place", "sampler-1: no place"]
    assert events[1] == "connect sampler-2,sampler-3"
    _, summary, error = _run(tmp_path / "b", failing=99)
    assert (
        "4 samplers were lost without a step between them, the last one because: no place"
        in str(error)
    )


def test_survivors_that_cannot_be_joined_twice_are_replaced(tmp_path):
    survivors = Survivors()
    survivors.samplers = {"sampler-4": Sampler("sampler-4")}
    fault = PublishError("1/2 clients joined")
    events, summary, error = _run(
        tmp_path, rank=lambda e: EarlyRank(e, fault, fault), survivors=survivors
    )
    assert error is None
    assert summary["samplers_lost"] == ["sampler-4: was part of a failed weight update"]
    assert [event for event in events[:5] if "connect" in event] == [
        "connect sampler-4",
        "connect sampler-4",
        "connect sampler-5",
    ]


def test_a_run_that_stood_for_too_long_keeps_nobody(tmp_path):
    """Any of them may be what it waited for."""
    survivors = Survivors()
    _run(
        tmp_path,
        workers=[Worker("w", idle=True)],
        supervision={"stall_s": 0.1, "heartbeat_s": 0.02, "restart_s": 0.3},
        survivors=survivors,
    )
    assert survivors.samplers == {}


def test_a_sampler_that_does_not_start_costs_no_other(tmp_path):
    """The run goes on with those that it has, and tries again."""

    async def kill(run, topology):
        while "published 1" not in topology.events:
            await asyncio.sleep(0)
        topology.failing = 2
        topology.started[0].dead.set()

    events, summary, error = _run(tmp_path, steps=400, samplers=2, meanwhile=kill)
    assert error is None
    assert summary["samplers_lost"] == [
        "sampler-0: sampler-0 died",
        "sampler-2: no place",
        "sampler-3: no place",
    ]
    assert "workers know sampler-1" in events
    assert "workers know sampler-1,sampler-4" in events


def test_losses_are_forgiven_by_a_step(tmp_path):
    """More of them than may be lost in a row, with steps between."""

    async def kill(run, topology):
        for number in range(6):
            while len(topology.started) <= number:
                await asyncio.sleep(0)
            version = run._state.version
            while run._state.version < version + 3:
                await asyncio.sleep(0)
            topology.started[number].dead.set()
        run.stop()

    _, summary, error = _run(tmp_path, steps=5000, meanwhile=kill)
    assert error is None
    assert len(summary["samplers_lost"]) >= 5


def test_a_sampler_joins_as_soon_as_it_is_up(tmp_path):
    """Although another one that was lost with it finds no place."""

    async def kill(run, topology):
        while "published 1" not in topology.events:
            await asyncio.sleep(0)
        topology.stuck = {"sampler-2"}
        for sampler in topology.started[:2]:
            sampler.dead.set()
        while "workers know sampler-3" not in topology.events:
            await asyncio.sleep(0)
        run.stop()

    _, summary, error = _run(tmp_path, steps=5000, samplers=2, meanwhile=kill)
    assert error is None
    assert summary["status"] == "stopped"
    assert sorted(summary["samplers_lost"]) == [
        "sampler-0: sampler-0 died",
        "sampler-1: sampler-1 died",
    ]


def test_a_new_worker_does_not_ask_a_sampler_that_has_not_joined(tmp_path):
    """One that has just come up still has the director's first weights."""
    workers = [Worker("a", error=PeerLostError("gone")), Worker("b", idle=True)]

    async def come_up(run, topology):
        while "workers know sampler-0" not in topology.events:
            await asyncio.sleep(0)
        run._state.pool._admit("sampler-9", Sampler("sampler-9"))
        while "worker replaced" not in topology.events:
            await asyncio.sleep(0)
        run.stop()

    events, _, error = _run(tmp_path, workers=workers, meanwhile=come_up)
    assert error is None
    assert "new worker knows sampler-0" in events
