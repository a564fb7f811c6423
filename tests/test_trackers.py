"""Trackers: they get the run's numbers, and never hold it up."""

from __future__ import annotations

import math
import threading
import time

import pytest

import cluster.trackers
from cluster.preflight.installation import tracker_check
from cluster.run_directory import RunDirectory
from cluster.trackers import QUEUE_RECORDS, Following, scalars, trackers
from wfr.config import ConfigError, parse_config
from wfr.testing import FakeTracker

STEP = {"kind": "step", "time": 100.0, "step": 3, "version": 3, "entropy": 0.5}


def test_numbers_are_told_from_the_rest():
    record = {
        **STEP,
        "lag/histogram": {0: 3, 2: 1},
        "groups": [1, 2],
        "name": "x",
        "down": True,
        "f1": None,
    }
    assert scalars(record) == {"entropy": 0.5, "lag/histogram/0": 3, "lag/histogram/2": 1}
    assert scalars({"kind": "eval", "em": 0.5, "skills": {"a": 1.0}}) == {
        "eval/em": 0.5,
        "eval/skills/a": 1.0,
    }


def test_a_tracker_gets_every_record_in_order():
    tracker, notes = FakeTracker(), []
    following = Following("fake", lambda: tracker, notes.append)
    for version in range(1, 50):
        following.observe({**STEP, "version": version})
    following.observe({"kind": "executor", "time": 1.0, "executor/hits": 2})
    following.observe({"kind": "sampler_lost", "time": 1.0, "samplers/lost": 1})
    following.close()
    assert [version for version, *_ in tracker.written] == [*range(1, 50), 49]
    assert tracker.written[-1] == (49, 1.0, {"executor/hits": 2})
    assert tracker.closed
    assert (following.lost, notes) == (0, [])


def test_a_tracker_that_hangs_holds_nothing_up():
    tracker, notes = FakeTracker(), []
    tracker.gate = threading.Event()
    following = Following("fake", lambda: tracker, notes.append)
    started = time.monotonic()
    following.observe(STEP)
    tracker.began.wait(10)
    for _ in range(QUEUE_RECORDS + 7):
        following.observe(STEP)
    assert time.monotonic() - started < 60
    assert following.lost == 7
    assert len(notes) == 1
    assert "too slow" in notes[0]
    following.close(timeout_s=0.05)
    assert following.lost == QUEUE_RECORDS + 7
    tracker.gate.set()


def test_a_tracker_that_fails_is_left_alone_after_a_while():
    tracker, notes = FakeTracker(), []
    tracker.fails = True
    following = Following("fake", lambda: tracker, notes.append)
    for _ in range(20):
        following.observe(STEP)
    following.close()
    assert tracker.attempts == 3
    assert following.lost == 20
    assert ["failed: broken" in note for note in notes] == [True, False]
    assert tracker.closed


def test_a_tracker_that_cannot_start_is_told_of():
    notes = []

    def start():
        raise OSError("no network")

    following = Following("fake", start, notes.append)
    following.observe(STEP)
    following.close()
    assert following.lost == 1
    assert "no network" in notes[0]


def _config(tmp_path, *names):
    return parse_config({"run": {"dir": str(tmp_path)}, "metrics": {"trackers": list(names)}})


def test_tensorboard_holds_what_was_logged(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, notes = _config(tmp_path, "tensorboard"), []
    directory = RunDirectory(config)
    with trackers(config, directory.path, notes.append) as observe:
        directory.follow(observe)
        for version in (1, 2):
            directory.log({**STEP, "version": version, "entropy": version / 4, "kl": math.nan})
        directory.log({"kind": "eval", "time": 9.0, "version": 2, "em": 0.75})
    directory.close()
    events = accumulator.EventAccumulator(str(directory.path / "tensorboard"))
    events.Reload()
    found = [(e.step, e.wall_time, e.value) for e in events.Scalars("entropy")]
    assert found == [(1, 100.0, 0.25), (2, 100.0, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("eval/em")] == [(2, 0.75)]
    assert notes == []


def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config, notes = _config(tmp_path, "wandb"), []
    directory = RunDirectory(config)
    with trackers(config, directory.path, notes.append) as observe:
        observe(STEP)
    directory.close()
    assert notes == []
    assert list((directory.path / "wandb").glob("offline-run-*/*.wandb"))


def test_mlflow_holds_what_was_logged(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking")
    config, notes = _config(tmp_path, "mlflow"), []
    directory = RunDirectory(config)
    with trackers(config, directory.path, notes.append) as observe:
        observe({**STEP, "skills": {"two hops?": 0.5}})
    directory.close()
    assert notes == []
    client = tracking.MlflowClient(f"sqlite:///{directory.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("wfr")
    (run,) = client.search_runs([experiment.experiment_id])
    (entry,) = client.get_metric_history(run.info.run_id, "entropy")
    assert (entry.step, entry.value, entry.timestamp) == (3, 0.5, 100_000)
    assert run.data.metrics["skills/two hops_"] == 0.5
    assert run.info.status == "FINISHED"


def test_nothing_is_imported_that_is_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.trackers, "_TRACKERS", {})
    with trackers(_config(tmp_path), tmp_path, print) as observe:
        observe(STEP)


def test_a_missing_extra_is_refused_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(cluster.trackers.importlib.util, "find_spec", lambda name: None)
    check = tracker_check(("wandb", "mlflow"))
    assert not check.ok
    assert "wandb, mlflow is missing" in check.detail
    assert "pip install 'wfr[wandb,mlflow]'" in check.remedy
    assert tracker_check(()).ok


def test_unknown_and_repeated_trackers_are_refused(tmp_path):
    for names in (["neptune"], ["wandb", "wandb"]):
        with pytest.raises(ConfigError, match="trackers"):
            _config(tmp_path, *names)
