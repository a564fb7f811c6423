"""A learner alone, trained on a journal that a run or a service has left."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from random_groups import trajectory

from wfr.config import parse_config
from wfr.journal import Journal
from wfr.schema import to_batch
from wfr.trajectory import Group

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(300)]


def test_rated_workflows_of_a_service_are_trained_on(tmp_path):
    """Groups of one trajectory with names, as `cluster.serving.flywheel` journals them."""
    from learner import tiny

    sections = {
        "run": {"name": "offline", "dir": str(tmp_path)},
        "model": {"max_length": 128},
        "rollout": {"group_size": 1},
        "buffer": {"min_scored": 1},
        "objective": {"preset": "gsspo", "kl_coef": 0.0, "advantage": "batch"},
        "learner": {"max_tokens": 512},
        "train": {"steps": 2, "groups_per_batch": 4},
    }
    director = tmp_path / "director"
    tiny.save(*tiny.make(parse_config(sections)), director)
    rng = np.random.default_rng(1)
    with Journal(tmp_path / "served" / "replica-1") as journal:
        for index in range(8):
            name = f"wf-{index:032x}"
            row = dataclasses.replace(trajectory(index, 0, rng), group_id=name, task_id=name)
            journal.append(to_batch(Group(name, name, 0, [row])))
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**sections, "model": {"max_length": 128, "path": str(director)}}))
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "train", config, "--offline", tmp_path / "served"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "offline" / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    assert [len(step["groups"]) for step in steps] == [4, 4]
    assert {name for step in steps for name in step["groups"]} == {f"wf-{i:032x}" for i in range(8)}
    assert all(np.isfinite(step["policy_loss"]) for step in steps)
