"""Whole runs through the command line: every real part, tiny numbers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.run_process import RunProcess
from wfr.journal import read_journal
from wfr.schema import from_batch

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

DATA = Path(__file__).parents[2] / "shared" / "data"
CONFIG = """
run: {name: run, dir: RUNS}
model: {max_length: 512}
tasks: {eval_tasks: 12}
environment:
  prompt: question
  pool: [Search, Programmer]
  max_turns: 4
  max_response_tokens: 400
  max_turn_tokens: 24
  observation_chars: 300
  search: {style: text}
warmstart: {steps: 2, batch: 8}
rollout: {group_size: 4}
buffer: {max_lag: 2}
objective: {kl_coef: 0.001, entropy_coef: 0.01}
learner: {lr: 1.0e-4, max_tokens: 2048}
train: {steps: 5, groups_per_batch: 4}
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*overrides):
        started.append(RunProcess(tmp_path, CONFIG, *overrides))
        return started[-1]

    yield start
    for process in started:
        process.clean_up()


def _nothing_is_left(process, deadline_s=30):
    """All processes of the run end; Ray's own need a moment to notice."""
    _, alive = psutil.wait_procs(process.processes(), timeout=deadline_s)
    return not alive or [p.cmdline() for p in alive]


def _trajectories(run):
    for directory in sorted((run / "journal").iterdir()):
        reader = read_journal(directory)
        for batch in reader:
            yield from from_batch(batch).trajectories
        assert reader.torn_bytes == 0


def test_a_run_from_nothing_to_a_checkpoint(start):
    process = start("train.eval_every=2", "best.score=em")
    assert process.end() == 0, process.output()
    summary = process.summary()
    _was_evaluated_beside(process, summary)
    assert summary["status"] == "done"
    assert summary["steps"] == 5
    assert summary["max_lag_seen"] <= summary["max_lag"] == 2
    assert {"em_before", "em_after", "wall_seconds", "skills_after"} <= summary.keys()
    spent = summary["tokens_consumed"] + summary["tokens_waiting"]
    assert summary["tokens_generated"] == spent + sum(summary["tokens_discarded"].values())
    assert [record["version"] for record in process.steps()] == [1, 2, 3, 4, 5]

    trajectories = list(_trajectories(process.run))
    for trajectory in trajectories:
        trajectory.check_valid()
    finished = summary["tokens_generated"] - summary["tokens_discarded"]["run_ended"]
    assert sum(t.policy_tokens for t in trajectories) == finished
    assert max(s.version for t in trajectories for s in t.version_spans) >= 1
    assert json.loads((process.run / "config.json").read_text())["buffer"]["max_lag"] == 2
    _checkpoint_loads(process.run / "checkpoints" / "5", process.run / "base")
    assert _nothing_is_left(process) is True


def _was_evaluated_beside(process, summary):
    """Training has not waited for the evaluations, whichever of them came to an end in time."""
    records = map(json.loads, (process.run / "metrics.jsonl").read_text().splitlines())
    evaluations = [record for record in records if record["kind"] == "eval"]
    beside = [record for record in evaluations if "last_version" in record]
    assert len(evaluations) == 2 + len(beside)
    assert len(beside) + summary["evaluations_left_out"] == 2
    assert all(record["version"] <= record["last_version"] for record in beside)
    best = max(evaluations, key=lambda record: record["em"])
    assert summary["best_score"] == best["em"]
    assert (process.run / "checkpoints" / "2").is_dir()


def _checkpoint_loads(checkpoint, base):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(checkpoint).chat_template
    after = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)


@pytest.mark.soak
def test_two_of_everything_on_hotpotqa(start, director):
    """Two ranks under ZeRO-3, samplers and workers; synchronous GRPO in two minibatches."""
    process = start(
        f"model.path={director}",
        *_benchmark("hotpotqa", "sample.json"),
        "learner.ranks=2",
        "learner.zero_stage=3",
        "sampler.count=2",
        "rollout.workers=2",
        "objective.preset=grpo",
        "buffer.max_lag=0",
        "learner.minibatches=2",
        "train.steps=2",
    )
    assert process.end() == 0, process.output()
    summary = process.summary()
    assert summary["max_lag_seen"] == 0
    assert summary["eval_tasks"] > 0
    assert all(record["lag/max"] == 0 for record in process.steps())
    assert len(list((process.run / "journal").iterdir())) == 2
    for trajectory in _trajectories(process.run):
        trajectory.check_valid()


@pytest.mark.soak
def test_frozen_processes_are_ended_and_replaced(start, director):
    """They have not died, so Ray says nothing: an engine, a worker, a learner rank in turn."""
    process = start(
        f"model.path={director}",
        *("train.steps=40", "metrics.port=0"),
        *("supervision.heartbeat_s=1", "supervision.silent_s=12", "supervision.stall_s=8"),
    )
    frozen = []
    for step, name in ((3, "VLLM::EngineCore"), (12, "ray::HostedWorker"), (24, "HostedLearner")):
        process.until_step(step)
        frozen.append(process.only(name))
        frozen[-1].suspend()
        process.until_step(len(process.steps()) + 3)
    assert process.end() == 0, process.output()
    summary = process.summary()
    assert summary["steps"] == 40
    (lost,) = summary["samplers_lost"]
    assert "has not answered for 12 s and was ended" in lost
    assert (summary["worker_restarts"], summary["learner_restarts"]) == (1, 1)
    assert "NO STEP FOR" in process.output()
    assert not any(each.is_running() for each in frozen)
    assert _nothing_is_left(process) is True


@pytest.mark.soak
def test_ctrl_c_on_gsm8k_leaves_a_checkpoint_and_no_process(start, director):
    process = start(
        f"model.path={director}", *_benchmark("gsm8k", "sample.jsonl"), "train.steps=200"
    )
    process.until_step(2)
    process.process.send_signal(signal.SIGINT)
    assert process.end() == 0, process.output()
    summary = process.summary()
    assert summary["status"] == "stopped"
    assert 2 <= summary["steps"] < 200
    assert (process.run / "checkpoints" / str(summary["steps"]) / "model.safetensors").exists()
    for trajectory in _trajectories(process.run):
        trajectory.check_valid()
    assert _nothing_is_left(process) is True


def _benchmark(name, file):
    """Overrides for real benchmark rows where they are at hand, else the embedded world."""
    path = DATA / name / file
    return (f"tasks.format={name}", f"tasks.path={path}") if path.exists() else ()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_run_of_which_every_process_is_killed_is_resumed_to_its_end(start):
    """Killed between checkpoints, with groups of several versions in flight."""
    from wfr.audit import audit

    settings = ("train.steps=7", "train.checkpoint_every=3")
    process = start(*settings)
    process.until_step(5, deadline_s=400)
    process.kill()
    report = audit(process.run)
    assert report.violations == []
    assert report.version >= 5
    process = start(*settings, "--resume")
    assert process.end() == 0, process.output()
    report = audit(process.run)
    assert report.violations == []
    assert report.version == 7
    assert report.ledger.groups_consumed == 7 * 4
    assert report.max_lag_seen <= 2
    versions = [record["version"] for record in process.steps()]
    assert versions == sorted(set(versions))
    used = [group for record in process.steps() for group in record["groups"]]
    assert len(used) == len(set(used))
    records = map(json.loads, (process.run / "metrics.jsonl").read_text().splitlines())
    resumed = [record for record in records if record["kind"] == "resumed"]
    assert [record["checkpoint"] for record in resumed] == [3]
    assert process.summary()["steps"] == 7
    assert not (process.run / "checkpoints" / "3" / "training").exists()
    assert (process.run / "checkpoints" / "7" / "training").exists()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_lora_trains_publishes_merged_weights_and_resumes(start, director):
    """FlowSteer's adapter: the reference is the director without it. Samplers sleep meanwhile."""
    from wfr.audit import audit

    settings = (
        f"model.path={director}",
        "learner.lora.rank=64",
        "sampler.colocated=true",
        "learner.lr=3e-3",
        "train.steps=6",
        "train.checkpoint_every=2",
    )
    process = start(*settings)
    process.until_step(3)
    process.kill()
    process = start(*settings, "--resume")
    assert process.end() == 0, process.output()
    assert audit(process.run).violations == []
    steps = process.steps()
    assert [record["version"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert max(record["kl_reference"] for record in steps[2:]) > 0  # the adapter has moved
    fresh = [r["kl_behaviour/lag_0"] for r in steps if "kl_behaviour/lag_0" in r]
    assert max(fresh) < 1e-3  # samplers hold the merged weights, learner base and adapter
    checkpoint = process.run / "checkpoints" / "6"
    assert (checkpoint / "adapter" / "adapter_model.safetensors").exists()
    _checkpoint_loads(checkpoint, director)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_killed_buffer_loses_nothing(start, director):
    """The run goes on from checkpoint, ledger and journal: all processes are new but the engine."""
    from wfr.audit import audit

    process = start(f"model.path={director}", "train.steps=7", "train.checkpoint_every=2")
    process.until_step(3)
    engine, worker = process.only("VLLM::EngineCore"), process.only("ray::HostedWorker")
    assert process.processes("VLLM::Worker") == []
    process.only("ray::HostedBuffer").kill()
    process.until_step(5)
    assert process.only("VLLM::EngineCore") == engine
    assert not worker.is_running()
    assert process.end() == 0, process.output()
    assert "goes on from what it has left (3 restarts to go); 1 of its samplers" in process.output()
    report = audit(process.run)
    assert report.violations == []
    assert report.ledger.groups_consumed == 7 * 4
    assert [record["version"] for record in process.steps()] == list(range(1, 8))
    assert process.summary()["status"] == "done"
    assert _nothing_is_left(process) is True
