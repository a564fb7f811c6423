"""The command line: what a person is told, and with which exit code."""

from __future__ import annotations

import importlib
import json
import sys
import types

import pytest
from typer.testing import CliRunner

from cluster import cli, console
from cluster.failures import RunFailedError
from cluster.preflight import Check
from wfr.backends.base import Completion
from wfr.backends.cache import Cache, Entry
from wfr.config import Config
from wfr.executor_config import CacheConfig

GOOD = [Check("python", True, "Python 3.11"), Check("tasks", True, "7 to learn from")]
SUMMARY = {
    "name": "r",
    "status": "done",
    "em_before": 0.25,
    "em_after": 0.75,
    "reward_before": -0.5,
    "reward_after": 0.5,
    "skills_before": {"hop1": 0.5},
    "skills_after": {"hop1": 0.75},
    "steps": 3,
    "rl_seconds": 9.5,
    "wall_seconds": 20.0,
    "max_lag_seen": 1,
    "max_lag": 4,
    "tokens_generated": 1234,
    "tokens_consumed": 1200,
    "peak_memory_gib": 2.5,
}


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return _write


@pytest.fixture
def fit(monkeypatch):
    """Make preflight find what it is told, by default nothing wrong."""

    def _fit(*results):
        for command in ("train", "doctor"):  # a sweep asks as `train` does
            module = importlib.import_module(f"cluster.commands.{command}")
            monkeypatch.setattr(module, "checks", lambda config, **_: list(results or GOOD))

    _fit()
    return _fit


@pytest.fixture
def launched(monkeypatch, fit):
    """Launch a fake in place of a run: it notes its arguments, and returns or raises `outcome`."""
    fake = types.SimpleNamespace(calls=[], outcome=SUMMARY)

    def launch(config, *, overwrite, resume, quiet, recording):
        assert recording is None
        fake.calls.append((config, overwrite, quiet))
        if isinstance(fake.outcome, Exception):
            raise fake.outcome
        return fake.outcome

    monkeypatch.setitem(sys.modules, "cluster.launch", types.SimpleNamespace(launch=launch))
    return fake


def wfr(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


# ---- bad input


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lerner: {lr: 1}", ("lerner", "learner")),
        ("learner: {learning_rate: 1}", ("learner.learning_rate", "unknown key", "zero_stage")),
        ("learner: {lr: fast}", ("learner.lr", "'fast'", "number")),
        ("buffer: {max_lag: -1}", ("buffer.max_lag", "-1", "greater than or equal to 0")),
        ("rollout: {group_size: 1}", ("rollout.group_size=1", "objective.advantage='zscore'")),
        ("[1, 2]", ("holds a list",)),
        ("a: [", ("is not YAML",)),
    ],
)
@pytest.mark.parametrize("command", [["train"], ["doctor"], ["warmstart", "--out", "x"]])
def test_bad_configuration_names_file_key_and_value(write, command, text, words):
    path = write(text)
    result = wfr(*command, path)
    assert result.exit_code == console.BAD_INPUT
    for word in (path, *words):
        assert word in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learner.lr=-1", ("learner.lr", "-1", "greater than 0")),
        ("learner.lrr=1", ("learner.lrr", "unknown key")),
        ("max_lag", ("--set 'max_lag'", "section.key=value")),
    ],
)
def test_bad_override_names_key_and_value(write, override, words):
    result = wfr("train", write(""), "--set", override)
    assert result.exit_code == console.BAD_INPUT
    for word in words:
        assert word in result.stderr


def test_missing_file(tmp_path):
    result = wfr("train", str(tmp_path / "none.yaml"))
    assert result.exit_code == console.BAD_INPUT
    assert f"{tmp_path / 'none.yaml'}: cannot be read" in result.stderr


def test_a_fault_of_a_key_says_where_the_file_has_it(write, fit):
    fit(*GOOD, Check("operators", False, "Serch is unknown", "mend it", "environment.pool"))
    path = write("environment:\n  pool: [Serch]\n")
    result = wfr("train", path)
    assert result.exit_code == console.BAD_INPUT
    assert f"Serch is unknown ({path}, line 2)" in result.stderr
    result = wfr("train", path, "--set", "environment.pool=[Serch]")
    assert "Serch is unknown\n" in result.stderr


@pytest.mark.parametrize("arguments", [["train"], ["fly"], ["train", "x.yaml", "--sset", "a=1"]])
def test_bad_usage(arguments):
    assert wfr(*arguments).exit_code == console.BAD_INPUT


# ---- help


def test_help_names_every_command():
    result = wfr("--help")
    assert result.exit_code == 0
    for name in ("train", "doctor", "warmstart", "cache"):
        assert name in result.stdout


@pytest.mark.parametrize("command", ["train", "doctor", "warmstart"])
def test_help_of_a_command_says_what_it_does(command):
    text = " ".join(wfr(command, "--help").stdout.split())
    assert "--set" in text
    first = getattr(cli, command).__doc__.split(".")[0]
    assert " ".join(first.split()[:6]) in text


def test_no_arguments_is_the_help():
    assert "Usage" in wfr().output


# ---- doctor


def test_doctor_as_json(fit):
    fit(GOOD[0], Check("sandbox", False, "no bwrap", "install bubblewrap"))
    result = wfr("doctor", "--json")
    assert result.exit_code == console.NOT_FIT
    assert json.loads(result.stdout) == [
        {"name": "python", "ok": True, "detail": "Python 3.11", "remedy": ""},
        {"name": "sandbox", "ok": False, "detail": "no bwrap", "remedy": "install bubblewrap"},
    ]


def test_doctor_on_this_machine(write):
    result = wfr("doctor", write(""), "--json", "--set", "run.name=none")
    rows = json.loads(result.stdout)
    assert {"python", "memory", "tasks", "run directory"} <= {row["name"] for row in rows}
    assert all(row["ok"] or row["remedy"] for row in rows)
    assert result.exit_code == (console.DONE if all(row["ok"] for row in rows) else console.NOT_FIT)


def test_doctor_prints_every_check_and_commands_as_they_are(fit):
    remedy = f"pip install 'wfr[cpu]' [/x]; see {'/long' * 30}"
    fit(GOOD[0], Check("packages", False, "ray[default] is missing", remedy))
    result = wfr("doctor")
    assert result.exit_code == console.NOT_FIT
    assert result.stdout.splitlines() == [
        "ok   python: Python 3.11",
        "FAIL packages: ray[default] is missing",
        f"       remedy: {remedy}",
    ]


def test_doctor_is_content(fit):
    assert wfr("doctor").exit_code == console.DONE


# ---- train


def test_train_launches_the_configured_run(launched, write):
    result = wfr("train", write("run: {name: r}"), "--set", "buffer.max_lag=0", "--overwrite")
    assert result.exit_code == console.DONE
    ((config, overwrite, quiet),) = launched.calls
    assert (config.run.name, config.buffer.max_lag, overwrite, quiet) == ("r", 0, True, False)
    for words in ("run r: done", "0.250", "0.750", "hop1", "3 steps", "1234 tokens"):
        assert words in result.stdout


def test_train_as_json_prints_nothing_else_on_stdout(launched, write):
    result = wfr("train", write(""), "--json")
    assert json.loads(result.stdout) == SUMMARY
    assert launched.calls == [(Config(), False, True)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailedError("4 samplers were lost [/x]"), console.FAILED),
        (FileExistsError("runs/r already holds a run (journal)"), console.BAD_INPUT),
    ],
)
def test_a_run_that_fails_says_why_without_a_traceback(launched, write, error, code):
    launched.outcome = error
    result = wfr("train", write(""))
    assert result.exit_code == code
    assert str(error) in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["tasks"], console.BAD_INPUT),
        (["model", "run directory"], console.BAD_INPUT),
        (["memory"], console.NOT_FIT),
        (["tasks", "memory"], console.NOT_FIT),
    ],
)
def test_nothing_starts_where_a_check_fails(fit, launched, write, names, code):
    fit(GOOD[0], *(Check(name, False, f"bad {name}", f"mend {name}") for name in names))
    result = wfr("train", write(""))
    assert result.exit_code == code
    assert launched.calls == []
    for name in names:
        assert f"bad {name}" in result.stderr
        assert f"remedy: mend {name}" in result.stderr


def test_exit_codes_are_the_documented_ones():
    assert (console.DONE, console.FAILED, console.BAD_INPUT, console.NOT_FIT) == (0, 1, 2, 3)


# ---- sweep


@pytest.fixture
def swept(monkeypatch, fit):
    """Make fakes in place of runs; `done` names those that are, `fails` those that will."""
    fake = types.SimpleNamespace(made=[], done={}, fails={}, others=set())

    def begun(config):
        if config.run.name in fake.others:
            raise FileExistsError(f"{config.run_dir} holds a run of another configuration")
        return config.run.name in fake.done

    def sweep(configs, *, overwrite, quiet):
        for config in configs:
            fake.made.append(config)
            error = fake.fails.get(config.run.name, "")
            summary = {} if error else {**SUMMARY, "name": config.run.name}
            yield types.SimpleNamespace(config=config, summary=summary, error=error)

    module = types.SimpleNamespace(begun=begun, sweep=sweep, finished=lambda c: fake.done)
    monkeypatch.setitem(sys.modules, "cluster.sweep", module)
    return fake


def test_a_sweep_makes_all_combinations_in_order(swept, write):
    options = ("--vary", "run.seed=1,2", "--vary", "objective.preset=gsspo,grpo")
    result = wfr("sweep", write("run: {name: r}"), *options, "--set", "train.steps=7")
    assert result.exit_code == console.DONE, result.stderr
    assert [config.run.name for config in swept.made] == [
        *("r-1-gsspo", "r-1-grpo", "r-2-gsspo", "r-2-grpo")
    ]
    assert [c.run.seed for c in swept.made] == [1, 1, 2, 2]
    assert [c.objective.preset for c in swept.made] == ["gsspo", "grpo"] * 2
    assert {c.train.steps for c in swept.made} == {7}
    for word in ("preset", "r-2-grpo", "0.250", "0.750", "done"):
        assert word in result.stdout


def test_a_sweep_as_json_is_one_line_for_each_run(swept, write):
    swept.fails["r-2"] = "ten tasks in a row"
    result = wfr("sweep", write("run: {name: r}"), "--vary", "run.seed=1,2", "--json")
    assert result.exit_code == console.FAILED
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {**SUMMARY, "name": "r-1"}
    assert second == {"name": "r-2", "status": "failed", "reason": "ten tasks in a row"}


def test_a_sweep_names_the_runs_that_failed(swept, write):
    swept.fails["r-2"] = "ten tasks in a row [/x]"
    result = wfr("sweep", write("run: {name: r}"), "--vary", "run.seed=1,2,3")
    assert result.exit_code == console.FAILED
    assert "r-2: ten tasks in a row [/x]" in result.stderr
    assert len(swept.made) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vary", "run.seed"], ("--vary 'run.seed'", "KEY=VALUE,VALUE")),
        (["--vary", "run.seed=1,,2"], ("KEY=VALUE,VALUE",)),
        (["--vary", "run.name=a,b"], ("run.name", "get their names")),
        (["--vary", "learner.lr=1e-6,1e+6,1e-6"], ("two runs would be called", "learner.lr=1e-6")),
        (["--vary", "buffer.max_lag=0,-1"], ("buffer.max_lag", "-1")),
        (["--vary", "buffer.lag=0,1"], ("buffer.lag", "unknown key", "max_lag")),
        ([], ("--vary",)),
    ],
)
def test_a_sweep_refuses_before_anything_starts(swept, write, options, words):
    result = wfr("sweep", write(""), *options)
    assert result.exit_code == console.BAD_INPUT
    assert swept.made == []
    for word in words:
        assert word in result.stderr


def test_a_sweep_checks_every_run_that_it_would_make(swept, fit, write, monkeypatch):
    asked = []

    def checks(config, **how):
        asked.append((config.run.name, how))
        return GOOD

    module = importlib.import_module("cluster.commands.train")
    monkeypatch.setattr(module, "checks", checks)
    swept.done["r-1"] = SUMMARY
    wfr("sweep", write("run: {name: r}"), "--vary", "run.seed=1,2")
    assert asked == [("r-2", {"overwrite": False, "resume": False})]
    swept.others.add("r-3")
    result = wfr("sweep", write("run: {name: r}"), "--vary", "run.seed=1,2,3")
    assert (result.exit_code, len(swept.made)) == (console.BAD_INPUT, 2)
    assert "another configuration" in result.stderr


def test_a_comma_in_brackets_or_quotes_separates_no_values():
    from cluster.commands.sweep import split

    assert list(split("[Search, Programmer],[Search]")) == ["[Search, Programmer]", "[Search]"]
    assert list(split("{a: 1, b: 2}, 'x,]', 3")) == ["{a: 1, b: 2}", "'x,]'", "3"]


# ---- cache


def test_cache_exports_what_a_run_has_asked(tmp_path):
    kept = Cache(CacheConfig(), tmp_path / "cache")
    kept.put("k", Entry({"prompt": "p"}, Completion("reply")))
    kept.close()
    target = tmp_path / "calls.jsonl"
    assert wfr("cache", str(tmp_path / "cache"), "--out", str(target)).exit_code == 0
    assert json.loads(target.read_text())["completion"]["text"] == "reply"
    refused = wfr("cache", str(tmp_path / "nowhere"), "--out", str(target))
    assert refused.exit_code == console.BAD_INPUT
