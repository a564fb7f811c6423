"""`wfr plan`: what it prints, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from wfr.config import ConfigError
from wfr.planner.scenario_file import load_scenario, parse_scenario

PLANS = sorted((Path(__file__).resolve().parents[1] / "cluster/configs/plans").glob("*.yaml"))
TEXT = """
gpu: {count: 4, usd_per_hour: 2}
sampler: {count: 2, curve: {1: 50, 32: 600}}
learner: {gpus: 2, tokens_per_s: 500}
episodes: {turns: 2, turn_tokens: 20}
training: {groups_per_batch: 4, group_size: 2, max_lag: 1}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(TEXT)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_it_prints_figures_shares_lags_and_sweeps(file):
    done = run("--simulate", file, "--hours", "0.05", "--split", "--lags")
    assert done.exit_code == 0, done.output
    for text in ("steps per hour", "learner: trains", "lag of turns", "max_lag", "cost per step"):
        assert text in done.output


def test_json_holds_everything_and_no_infinity(file):
    done = run("--simulate", file, "--hours", "0.05", "--lags", "--json")
    found = json.loads(done.stdout)
    assert found["prediction"]["steps_per_hour"] > 0
    assert set(found["lags"]) == {"0", "1", "2", "4", "8"}
    assert found["scenario"]["gpu"]["count"] == 4
    empty = run("--simulate", file, "--hours", "0.001", "--set", "learner.step_s=1000", "--json")
    assert json.loads(empty.stdout)["prediction"]["usd_per_step"] is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sampler.count=3", "take 5 GPUs, but gpu.count=4"),
        ("sampler.places=3", "sampler.places: unknown key; allowed here: count, gpus"),
        ("sampler.curve={1: 50, 8: 40}", "never does worse with more"),
        ("learner.tokens_per_s=-1", "learner.tokens_per_s=-1"),
        ("publish={seconds: 1, pause_s: 2}", "pause_s=2 is above seconds=1"),
        (
            "episodes.turns={kind: mixture, parts: [[0.5, 1], [0.4, 2]]}",
            "the shares of a mixture add up to 0.9",
        ),
        ("operators={A: {share: 0.7, latency_s: 1}, B: {share: 0.6, latency_s: 1}}", "up to 1.3"),
        ("episodes=", "no section `episodes`"),
        ("nonsense", "expected section.key=value"),
        ("gpu.count.much=1", "'count' is a value, not a section"),
    ],
)
def test_it_refuses_with_key_value_and_remedy(file, change, told):
    done = run("--simulate", file, "--set", change)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())


def test_a_fault_in_the_file_is_told_with_its_line(file):
    file.write_text(TEXT.replace("gpus: 2", "gpu: 2"))
    with pytest.raises(ConfigError, match=r"learner.gpu: unknown key; .*\(line 4\)"):
        load_scenario(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scenario(file.parent / "none.yaml")
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_scenario(file)


def test_numbers_stand_for_constants():
    values = {"sampler": {"curve": {1: 1}}, "learner": {"tokens_per_s": 1}, "gpu": {"count": 2}}
    found = parse_scenario({**values, "episodes": {"turns": 3, "turn_tokens": 2.5}})
    assert found.episodes.turns.value == 3


@pytest.mark.parametrize("path", PLANS, ids=[path.stem for path in PLANS])
def test_the_plans_that_come_along_are_whole(path):
    assert load_scenario(path).episodes is not None


RUN = """
run: {name: big}
sampler: {count: 3, tensor_parallel: 4}
learner: {ranks: 8}
rollout: {workers: 2}
placement: {worker: {labels: {pool: cpu}, cpus: 16}}
"""
GPUS, CPUS = ("--machines", "3x gpu=8,cpu=96"), ("--machines", "cpu=64, pool=cpu")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def test_it_says_what_would_run_where(config):
    done = run("--config", config, *GPUS, *CPUS)
    assert done.exit_code == 0, done.output
    assert "learner × 8" in done.output
    assert "worker-0, worker-1" in done.output
    found = json.loads(run("--config", config, *GPUS, *CPUS, "--json").output)
    assert found["placed"][0] == {
        "demand": "learner",
        "asks": "8 × 1 GPUs",
        "machines": ["a0"] * 8,
    }
    assert found["machines"]["b0"] == ["worker-0", "worker-1"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((*GPUS,), 3, "worker-0 asks for 16 CPUs on machines with pool=cpu, but none of 3"),
        (("--machines", "2x gpu=8,cpu=96", *CPUS), 3, "lower sampler.count"),
        (("--machines", "8 gpus"), 2, "expected for example '4x gpu=8,cpu=96,pool=a'"),
        (("--machines", "gpu=many"), 2, "give numbers"),
        (("--machines", "gpu=1,gpu=2"), 2, "names gpu twice"),
        (("--simulate", "x.yaml"), 2, "choose"),
    ],
)
def test_it_refuses_what_cannot_be_placed(config, arguments, code, told):
    done = run("--config", config, *arguments)
    assert done.exit_code == code
    assert told in " ".join(done.output.split())


def test_without_a_cluster_it_asks_this_machine(config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = run("--config", config, "--set", "placement.worker={}", "--set", "learner.ranks=1")
    text = " ".join(done.output.split())
    assert "this machine" in text or "Add machines" in text
