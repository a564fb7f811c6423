"""Does the director learn? The whole quickstart, and the synchronous system from the same file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.engine, pytest.mark.timeout(1500)]

CONFIGS = Path(__file__).parents[1] / "cluster" / "configs"
CONFIG = CONFIGS / "quickstart.yaml"


def _train(directory, *overrides, config=CONFIG):
    settings = [f"run.dir={directory}", *overrides]
    command = [sys.executable, "-m", "cluster.cli", "train", str(config), "--json"]
    command += [part for override in settings for part in ("--set", override)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The quickstart from nothing, with a seed of its own and half of its steps."""
    directory = tmp_path_factory.mktemp("runs")
    return directory, _train(directory, "run.seed=5", "train.steps=30")


def test_the_quickstart_learns(quickstart):
    _, summary = quickstart
    assert 0.2 <= summary["em_before"] <= 0.6
    assert summary["em_after"] >= 0.8
    assert summary["em_after"] - summary["em_before"] >= 0.3


def test_the_quickstart_keeps_its_bounds(quickstart):
    _, summary = quickstart
    assert summary["max_lag_seen"] <= summary["max_lag"] == 4
    spent = summary["tokens_consumed"] + summary["tokens_waiting"]
    assert summary["tokens_generated"] == spent + sum(summary["tokens_discarded"].values())
    assert summary["samplers_lost"] == []
    assert summary["peak_memory_gib"] < 10


def test_the_synchronous_system_is_the_same_file_with_one_other_number(quickstart):
    directory, asynchronous = quickstart
    base = directory / "quickstart" / "base"
    summary = _train(
        directory,
        "run.name=synchronous",
        f"model.path={base}",
        "run.seed=5",
        "buffer.max_lag=0",
        "train.steps=14",
    )
    assert summary["max_lag_seen"] == 0
    assert summary["em_before"] == pytest.approx(asynchronous["em_before"], abs=0.02)
    assert summary["em_after"] - summary["em_before"] >= 0.15


def test_the_canvas_quickstart_learns_to_build_workflows(tmp_path):
    summary = _train(tmp_path, "run.seed=5", config=CONFIGS / "canvas_quickstart.yaml")
    before, after = summary["parts_before"], summary["parts_after"]
    assert after["gate"] >= 0.8 > before["gate"]
    assert after["operators"] > before["operators"]
    assert summary["reward_after"] >= summary["reward_before"] + 0.5
    assert summary["em_after"] >= summary["em_before"] + 0.1
    assert summary["max_lag_seen"] <= summary["max_lag"] == 4
    spent = summary["tokens_consumed"] + summary["tokens_waiting"]
    assert summary["tokens_generated"] == spent + sum(summary["tokens_discarded"].values())
