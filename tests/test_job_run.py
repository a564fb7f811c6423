"""A run as a job of a real Ray cluster: submitted, followed, ended in order, gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(900)]

YAML = """
run: {name: far, dir: RUNS}
model: {max_length: 512}
tasks: {eval_tasks: 12}
environment: {prompt: question, max_turns: 4, max_response_tokens: 400, max_turn_tokens: 24}
warmstart: {steps: 2, batch: 8}
rollout: {group_size: 4}
learner: {max_tokens: 2048}
train: {steps: 500, groups_per_batch: 4, checkpoint_every: 2}
"""


@pytest.fixture
def cluster(monkeypatch):
    """A head node with its job server, started with the environment's `python` on its path."""
    import ray

    here = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([here, os.environ["PATH"]]))
    context = ray.init(include_dashboard=True, num_cpus=2, object_store_memory=300 << 20)
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


def _wfr(*arguments, code=0):
    command = [sys.executable, "-m", "cluster.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def _steps(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]


def test_a_run_is_submitted_ended_in_order_and_gone_on_with(cluster, tmp_path):
    here, run = tmp_path / "here", tmp_path / "shared" / "far"
    here.mkdir()
    config = here / "run.yaml"
    config.write_text(YAML.replace("RUNS", str(run.parent)))
    at = ("--address", cluster)

    def play(steps, *options):
        """Submit, let it take so many steps, ask it to end; its log."""
        arguments = (config, *at, "--working-dir", here, "--no-follow", "--json", *options)
        submitted = json.loads(_wfr("submit", *arguments))
        assert submitted["directory"] == str(run)
        job, end = submitted["id"], time.monotonic() + 300
        while len(_steps(run)) < steps:
            status = json.loads(_wfr("jobs", "status", job, *at, "--json"))["status"]
            assert status in {"PENDING", "RUNNING"}, _wfr("jobs", "logs", job, *at)
            assert time.monotonic() < end, _wfr("jobs", "logs", job, *at)
            time.sleep(1)
        _wfr("jobs", "stop", job, *at)
        log = _wfr("jobs", "logs", job, *at, "--follow", code=1)
        assert "ending in order" in log
        assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
        assert (run / "checkpoints" / str(max(_steps(run)))).is_dir()
        return log

    play(3)
    done = max(_steps(run))
    assert f"resuming at version {done}" in play(done + 2, "--resume")
    assert _steps(run) == list(range(1, max(_steps(run)) + 1))
    listed = json.loads(_wfr("jobs", "list", *at, "--json"))
    assert [row["status"] for row in listed] == ["STOPPED", "STOPPED"]
