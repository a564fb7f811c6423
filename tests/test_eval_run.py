"""`wfr eval` of a checkpoint: the real engine and real workers, tiny numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from learner import tiny
from wfr.config import load_config
from wfr.evaluation.prediction import PredictionFile

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(300)]

CONFIG = """
model: {max_length: 256, tiny: {layers: 1, hidden: 64, intermediate: 64, heads: 2}}
tasks: {eval_tasks: 6}
environment:
  prompt: question
  pool: [Search, AnswerGenerate]
  max_turns: 3
  max_response_tokens: 200
  max_turn_tokens: 12
sampler: {max_num_seqs: 16}
"""


def evaluate(directory, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "eval", str(directory / "run.yaml"), *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_checkpoint_plays_greedy_and_sampled_and_is_not_played_again(tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    checkpoint, out = tmp_path / "director", tmp_path / "out"
    tiny.save(*tiny.make(load_config(tmp_path / "run.yaml")), checkpoint)
    arguments = ["--policy", str(checkpoint), "--samples", "2", "--out", str(out)]

    evaluate(tmp_path, *arguments)
    found = list(PredictionFile(out / "predictions.jsonl"))
    assert sorted(p.sample for p in found) == [0] * 6 + [1] * 6 + [2] * 6
    assert {p.policy for p in found} == {str(checkpoint), f"{checkpoint} T=1"}
    assert all(p.correct is not None and p.tokens > 0 for p in found)
    assert "2: " in (out / "table.md").read_text()

    before = (out / "predictions.jsonl").read_bytes()
    again = evaluate(tmp_path, *arguments)
    assert "nothing left to play" in again.stderr
    assert (out / "predictions.jsonl").read_bytes() == before
