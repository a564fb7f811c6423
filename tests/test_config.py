"""The configuration refuses what cannot be run: it says which key, which value, what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wfr.config import OBJECTIVE_PRESETS, Config, ConfigError, load_config, parse_config

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "cluster/configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Write a configuration file and return its path."""

    def _write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def refusal(values) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, source="run.yaml")
    return str(caught.value)


def test_empty_file_is_the_defaults(write):
    assert load_config(write("")) == Config()


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_shipped_configuration_loads(path):
    assert load_config(path).run.name == path.stem


def test_unknown_key_names_the_allowed_ones():
    text = refusal({"learner": {"learning_rate": 1e-6}})
    assert text.startswith("run.yaml:\n  learner.learning_rate: unknown key")
    assert "lr" in text
    assert "zero_stage" in text


def test_unknown_section_names_the_sections():
    assert "learner" in refusal({"lerner": {}})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learner": {"lr": "fast"}}, ("learner.lr", "'fast'", "number")),
        ({"learner": {"zero_stage": 5}}, ("learner.zero_stage", "5", "0, 1, 2 or 3")),
        ({"learner": 3}, ("learner", "3")),
        ({"rollout": {"group_size": 0}}, ("rollout.group_size", "0", "greater than or equal to 1")),
        ({"buffer": {"max_lag": 1.5}}, ("buffer.max_lag", "1.5", "integer")),
        ({"objective": {"preset": "ppo"}}, ("objective.preset", "'ppo'", "'gsspo'")),
        ({"run": {"name": "../elsewhere"}}, ("run.name", "../elsewhere")),
        ({"weights": {"port": 70000}}, ("weights.port", "70000", "65535")),
    ],
)
def test_wrong_value_is_named_with_what_is_allowed(values, words):
    text = refusal(values)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rollout": {"group_size": 1}}, ("rollout.group_size=1", "zscore")),
        ({"learner": {"minibatches": 3}}, ("learner.minibatches=3", "groups_per_batch=16")),
        ({"learner": {"max_tokens": 64}}, ("learner.max_tokens=64", "model.max_length=1024")),
        ({"tasks": {"path": "x"}}, ("tasks.path='x'", "lookup_world")),
        ({"tasks": {"format": "gsm8k"}}, ("gsm8k", "needs tasks.path")),
    ],
)
def test_contradiction_names_both_sides(values, words):
    text = refusal(values)
    assert all(word in text for word in words), text


def test_every_fault_is_reported_at_once():
    text = refusal({"learner": {"lr": -1}, "train": {"steps": "many"}, "rubbish": 1})
    assert all(key in text for key in ("learner.lr", "train.steps", "rubbish"))


def test_configuration_is_immutable():
    with pytest.raises(ValidationError):
        Config().run.name = "other"


def test_override_wins_over_the_file(write):
    path = write("learner: {lr: 0.1}\n")
    assert load_config(path, ["learner.lr=1e-6", "run.name=x"]).learner.lr == 1e-6


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("metrics.port=null", "metrics.port", None),
        ("sampler.prefix_cache=false", "sampler.prefix_cache", False),
        ("environment.pool=[Search]", "environment.pool", ("Search",)),
        ("run.name=2e5x", "run.name", "2e5x"),
    ],
)
def test_override_is_read_as_yaml(write, override, key, value):
    section, _, field = key.partition(".")
    config = load_config(write(""), [override])
    assert getattr(getattr(config, section), field) == value


@pytest.mark.parametrize("override", ["learner.lr", "=3", "learner..lr=3", "run.name.x=3"])
def test_bad_override_is_quoted(write, override):
    with pytest.raises(ConfigError) as caught:
        load_config(write("run: {name: a}\n"), [override])
    assert override.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text"])
def test_not_a_configuration(write, text):
    path = write(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("preset", OBJECTIVE_PRESETS)
def test_preset_fills_in_and_a_named_value_wins(preset):
    objective = parse_config({"objective": {"preset": preset}}).objective
    for key, value in OBJECTIVE_PRESETS[preset].items():
        assert getattr(objective, key) == value
    changed = parse_config({"objective": {"preset": preset, "kl_coef": 0.5}}).objective
    assert changed == objective.model_copy(update={"kl_coef": 0.5})


@given(max_lag=st.integers(0, 16), groups=st.integers(1, 64))
def test_slots_hold_every_group_that_may_be_alive(max_lag, groups):
    config = parse_config({"buffer": {"max_lag": max_lag}, "train": {"groups_per_batch": groups}})
    assert config.slots == sum(groups for _ in range(max_lag + 1))


def test_resolved_configuration_reads_back():
    config = parse_config({"objective": {"preset": "dapo"}, "environment": {"pool": ["Search"]}})
    assert parse_config(yaml.safe_load(config.model_dump_json())) == config
