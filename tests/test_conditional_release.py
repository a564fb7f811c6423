"""The study of conditional release: what it reports of runs that are there."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.studies import conditional_release as study
from wfr.config import load_config


def write_run(out, arm, seed, operators, status="done"):
    parts = {name: 0.5 for name in study.OUTCOMES if name != "reward"}
    summary = {
        "status": status,
        "steps": 60,
        "rl_seconds": 100.0,
        "parts_before": {**parts, "operators": 1.0},
        "parts_after": {**parts, "operators": operators},
        "reward_before": -0.9,
        "reward_after": 0.8,
    }
    directory = out / study._name(arm, seed)
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def runs(tmp_path):
    gated, always = study.ARMS
    for seed, (one, other) in enumerate([(6, 4), (7, 4), (6, 5)], 1):
        write_run(tmp_path, gated, seed, one)
        write_run(tmp_path, always, seed, other)
    return tmp_path


def report(out, *options):
    app = typer.Typer()
    app.command()(study.main)
    return CliRunner().invoke(app, ["--out", str(out), "--report-only", *options])


def test_differences_are_paired_by_seed(runs):
    result = report(runs)
    assert result.exit_code == 0
    assert "| operators | -2.00 | -3.00 | -1.00 | -4.48 to +0.48 |" in result.stdout
    table = pq.read_table(runs / "runs.parquet")
    assert table.num_rows == 6
    assert (runs / "report.md").read_text() == result.stdout.removesuffix("\n")


def test_a_run_that_is_not_done_is_no_result(runs):
    gated, always = study.ARMS
    write_run(runs, always, 4, 99, status="failed")
    write_run(runs, gated, 4, 1)
    result = report(runs, "--seeds", "4")
    assert "+98" not in result.stdout
    assert pq.read_table(runs / "runs.parquet").num_rows == 7


def test_the_second_half_of_the_sampled_episodes_is_described(runs):
    for arm, low in zip(study.ARMS, (6.0, 4.0), strict=True):
        for seed in (1, 2, 3):
            lines = [
                {"kind": "step", "step": step, "reward/operators": low + seed * (step > 2)}
                | {"reward/gate": 0.5, "reward/correct": 0.5}
                for step in (1, 2, 3, 4)
            ]
            path = runs / study._name(arm, seed) / "metrics.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = report(runs)
    assert "| operators | -2.00 | -2.00, -2.00, -2.00 |" in result.stdout
    assert (runs / "curves.svg").read_text().startswith("<?xml")


def test_overrides_of_both_arms_are_keys_of_the_configuration():
    assert study.settings(None, None) == ()
    config = load_config(study.CONFIG, study.settings(3, 0.1))
    assert (config.train.steps, config.executor.backends["fallible"].mistakes) == (3, 0.1)


def test_nothing_to_report(tmp_path):
    assert report(tmp_path).exit_code == 1


def test_interval_of_known_values():
    low, high = study.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    assert study.interval([1.0]) is None
