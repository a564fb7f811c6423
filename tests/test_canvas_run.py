"""A whole canvas run through the command line: every real part, tiny numbers.

It shows the director the last feedback only; the quickstart of the canvas, a soak test, shows all.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from wfr.journal import read_journal
from wfr.schema import from_batch
from wfr.workflow.edit_parser import parse_edit

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(400)]

CONFIG = """
run: {name: run, dir: RUNS}
model: {max_length: 384}
tasks: {format: mixed_world, eval_tasks: 12, world: {questions: 30}}
environment:
  kind: canvas
  prompt: question
  feedback: brief
  history: last_feedback
  result_chars: 16
  finish_gate: {min_operators: 1, structure: false, checker: false, code_test: false}
  max_turns: 5
  max_response_tokens: 300
  max_turn_tokens: 24
warmstart: {steps: 80}
rollout: {group_size: 4}
buffer: {max_lag: 1}
objective: {preset: cwrpo}
learner: {lr: 1.0e-4, max_tokens: 2048}
train: {steps: 3, groups_per_batch: 4}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("canvas")
    (directory / "run.yaml").write_text(CONFIG.replace("RUNS", str(directory)))
    command = [sys.executable, "-m", "cluster.cli", "train", str(directory / "run.yaml"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return directory / "run", json.loads(done.stdout)


@pytest.fixture(scope="module")
def trajectories(run):
    directories = [path for path in (run[0] / "journal").iterdir() if path.is_dir()]
    batches = [batch for directory in directories for batch in read_journal(directory)]
    return [t for batch in batches for t in from_batch(batch).trajectories]


def test_it_trains_and_reports_what_it_built(run):
    _, summary = run
    assert (summary["status"], summary["steps"]) == ("done", 3)
    for parts in (summary["parts_before"], summary["parts_after"]):
        assert {"correct", "gate", "operators", "turns", "diversity", "answer"} <= parts.keys()
        assert parts["offset"] == -1


def test_every_episode_is_scored_by_the_canvas(trajectories):
    assert len(trajectories) >= 48
    for trajectory in trajectories:
        assert not trajectory.stop_reason.is_world_failure, trajectory.error
        assert -1 <= trajectory.reward <= 1
        parts = trajectory.reward_parts
        total = sum(parts[name] for name in ("offset", "diversity", "constraint", "answer"))
        assert trajectory.reward == pytest.approx(total)
        assert parts["turns"] == len(trajectory.turns)


def test_turns_end_with_the_end_of_sequence_and_their_texts_are_edits(trajectories):
    """The warm start taught the grammar well enough for some edits to be read."""
    turns = [turn for t in trajectories for turn in t.turns]
    assert {turn.finish_reason for turn in turns} <= {"stop", "length"}
    texts = [m.content for t in trajectories for m in t.messages if m.role == "assistant"]
    assert any(parse_edit(text).edit is not None for text in texts)


def test_every_turn_has_a_context_of_its_own_and_the_learner_scores_it_as_the_sampler_did(
    run, trajectories
):
    contexts = [[turn.context for turn in t.turns] for t in trajectories]
    assert all(starts == sorted(set(starts)) for starts in contexts)
    assert max(map(len, contexts)) > 2
    for trajectory in trajectories:
        trajectory.check_valid()
    lines = (run[0] / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    same_weights = [step["kl_behaviour/lag_0"] for step in steps if "kl_behaviour/lag_0" in step]
    assert same_weights
    assert max(same_weights) < 1e-4


def test_operators_were_called(trajectories):
    assert {call.operator for t in trajectories for call in t.operator_calls}
