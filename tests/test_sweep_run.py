"""A sweep of real runs: one engine serves all of them, and each keeps its own books."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.run_process import RunProcess
from tests.test_run import CONFIG
from wfr.audit import audit

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(500)]


@pytest.fixture
def sweep(tmp_path, director):
    started = []

    def sweep(*overrides):
        # At this rate three steps lead so far away that old weights would be noticed.
        settings = (f"model.path={director}", "train.steps=3", "learner.lr=0.01", *overrides)
        started.append(RunProcess(tmp_path, CONFIG, *settings, command="sweep"))
        return started[-1]

    yield sweep
    for process in started:
        process.clean_up()


def steps(run):
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "step"]


def test_one_engine_serves_every_run(sweep, tmp_path):
    process = sweep("--vary buffer.max_lag=0,2")
    assert process.end(400) == 0, process.output()
    assert process.output().count("still up") == 1
    _, alive = psutil.wait_procs(process.processes(), timeout=30)
    assert not alive
    names = ["run-0", "run-2"]
    summaries = {n: json.loads((tmp_path / n / "summary.json").read_text()) for n in names}
    for name, summary in summaries.items():
        assert (summary["status"], summary["steps"]) == ("done", 3), name
        assert summary["max_lag_seen"] <= summary["max_lag"]
        assert summary["samplers_lost"] == []
        assert audit(tmp_path / name).violations == []
        # It begins with the director that it was given, whatever the engine learnt before.
        first, *_, last = steps(tmp_path / name)
        assert first["kl_behaviour"] < 1e-3
        if summary["max_lag"]:
            assert last["kl_behaviour"] > 10 * first["kl_behaviour"]
    assert (tmp_path / names[0] / "logs/sampler-0.log").exists()
    assert not (tmp_path / names[1] / "logs/sampler-0.log").exists()

    before = (tmp_path / names[1] / "summary.json").stat().st_mtime_ns
    again = sweep("--vary buffer.max_lag=0,2")
    assert again.end(60) == 0, again.output()
    assert (tmp_path / names[1] / "summary.json").stat().st_mtime_ns == before
