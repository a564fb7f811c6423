"""`wfr eval`: datasets, resuming, tables, comparison, refusals."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cluster import cli
from wfr.backends.base import BackendConfigError
from wfr.config import Config
from wfr.evaluation.datasets import datasets
from wfr.evaluation.prediction import PredictionFile

pytestmark = pytest.mark.engine  # for its time; no engine runs here

CONFIG = """
run: {name: r, dir: RUNS}
tasks: {format: mixed_world, eval_tasks: 12, world: {questions: 40}}
environment:
  kind: canvas
  finish_gate: {min_operators: 1, structure: false, checker: false, code_test: false}
evaluation: {search_episodes: 32}
"""
WITHOUT_SANDBOX = "--set=environment.pool=[Plan, Custom, AnswerGenerate, Review, Revise, Format]"


@pytest.fixture
def call(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("RUNS", str(tmp_path / "runs")))

    def _call(*arguments, config=str(config)):
        return CliRunner().invoke(cli.app, ["eval", config, *arguments])

    return _call


def lines(directory):
    return (directory / "predictions.jsonl").read_text().splitlines()


def test_predictions_and_tables_are_written_and_kept(call, tmp_path, require):
    require("bubblewrap")
    done = call("--policy", "direct", "--policy", "random")
    assert done.exit_code == 0, done.output
    out = tmp_path / "runs" / "r-eval"
    first = lines(out)
    assert len(first) == 24
    assert "| direct | mixed_world | 12 |" in (out / "table.md").read_text()
    assert "<td>random</td>" in (out / "table.html").read_text()

    assert call("--policy", "direct", "--policy", "heuristic").exit_code == 0
    assert lines(out)[:24] == first
    assert len(lines(out)) == 36


def test_the_same_seed_gives_the_same_predictions(call, tmp_path, require):
    require("bubblewrap")
    results = []
    for name in ("one", "two"):
        done = call("--policy", "random", "--policy", "search", "--out", str(tmp_path / name))
        assert done.exit_code == 0, done.output
        found = PredictionFile(tmp_path / name / "predictions.jsonl")
        results.append({p.key: (p.answer, p.correct, p.turns) for p in found})
    assert results[0] == results[1]


def test_what_was_not_scored_is_played_again(call, tmp_path, require):
    require("bubblewrap")
    out = tmp_path / "runs" / "r-eval"
    call("--policy", "direct")
    kept = [json.loads(line) for line in lines(out)]
    kept[3]["correct"] = None
    (out / "predictions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in kept))
    assert call("--policy", "direct").exit_code == 0
    assert len(lines(out)) == 13
    assert all(p.correct is not None for p in PredictionFile(out / "predictions.jsonl"))


def test_comparison(call, tmp_path, require):
    require("bubblewrap")
    call("--policy", "random", "--policy", "heuristic")
    out = str(tmp_path / "runs" / "r-eval")
    compared = CliRunner().invoke(
        cli.app, ["eval", "compare", f"{out}:random", f"{out}:heuristic", "--json"]
    )
    found = json.loads(compared.stdout)["mixed_world"]
    assert found["difference"]["count"] == 12
    assert found["difference"]["mean"] > 0
    ambiguous = CliRunner().invoke(cli.app, ["eval", "compare", out, out])
    assert ambiguous.exit_code == 2
    assert "choose one by" in ambiguous.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "nobody"], "neither a run directory nor a checkpoint"),
        (["--policy", "untrained"], "neither a run directory nor a checkpoint"),
        (["--policy", "fixed_workflow", "--set=environment.pool=[Plan, Custom]"], "needs Review"),
        (["--policy", "heuristic", "--set=environment={kind: think_act}"], "kind=canvas"),
        (["--policy", "direct", "--set=environment.pool=[Nothing]"], "does not know Nothing"),
    ],
)
def test_bad_input_is_refused_before_anything_is_played(call, tmp_path, arguments, says):
    refused = call(*arguments)
    assert refused.exit_code == 2, refused.output
    assert says in refused.output
    assert not (tmp_path / "runs").exists()


def test_predictions_of_other_settings_are_never_mixed(call, require):
    require("bubblewrap")
    assert call("--policy", "direct").exit_code == 0
    refused = call("--policy", "direct", "--set", "run.seed=9")
    assert refused.exit_code == 2
    assert "other settings of seed" in refused.output


def test_an_executor_that_cannot_be_used_ends_it(call, monkeypatch):
    async def evaluate(*arguments, **options):
        raise ExceptionGroup("tasks", [BackendConfigError("no key")])

    monkeypatch.setattr("cluster.commands.eval.evaluate_programs", evaluate)
    done = call("--policy", "direct")
    assert (done.exit_code, "no key" in done.output) == (1, True)


def test_datasets_have_different_names():
    sections = [
        {"format": "lookup_world"},
        {"format": "gsm8k", "path": "a/test.jsonl"},
        {"format": "gsm8k", "path": "b/test.jsonl"},
        {"format": "hotpotqa", "path": "h.json"},
    ]
    config = Config.model_validate({"evaluation": {"datasets": sections}})
    found = datasets(config)
    assert list(found) == ["lookup_world", "gsm8k:test", "gsm8k:test'", "hotpotqa"]
    assert found["gsm8k:test'"].tasks.path == "b/test.jsonl"
    assert list(datasets(Config())) == ["lookup_world"]
