"""The configuration refuses what cannot be run: it says which key, which value, what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wfr.config import Config, ConfigError, load_config, parse_config
from wfr.objective_config import OBJECTIVE_PRESETS

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
        (
            {"run": {"deterministic": True}, "sampler": {"max_num_seqs": 1}},
            ("run.deterministic=true", "buffer.max_lag: 0", "sampler.prefix_cache: False"),
        ),
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


def test_an_environment_without_a_kind_is_think_act():
    config = parse_config({"environment": {"max_turns": 3}})
    assert (config.environment.kind, config.environment.max_turns) == ("think_act", 3)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"kind": "chess"}, ("environment: 'kind' is none of 'think_act', 'canvas'",)),
        (
            {"kind": "canvas", "observation_chars": 9},
            ("environment.observation_chars: unknown", "result_chars"),
        ),
        (
            {"kind": "canvas", "reward": {"gate": 1}},
            ("environment.reward.gate: unknown", "threshold"),
        ),
        ({"kind": "canvas", "max_turns": 0}, ("environment.max_turns=0", "greater")),
        ({"router": "off"}, ("environment.router: unknown", "observation_chars")),
        (
            {"kind": "canvas", "reward": {"preset": "released_code", "need_solver": True}},
            ("environment.reward", "measure='dsl_text'"),
        ),
    ],
)
def test_sections_of_several_kinds_are_explained(environment, words):
    text = refusal({"environment": environment})
    assert all(word in text for word in words), text


def test_off_is_a_word_and_switches_read_it_alike(write):
    path = write("environment: {kind: canvas, router: off, hints: no, legacy_inverted: on}")
    environment = load_config(path).environment
    found = (environment.router, environment.hints, environment.legacy_inverted)
    assert found == ("off", False, True)
    environment = load_config(path, ["environment.router=off", "environment.hints=true"])
    assert (environment.environment.router, environment.environment.hints) == ("off", True)


def test_presets_of_the_canvas_reward_can_be_departed_from():
    reward = {"preset": "released_code", "min_operators": 4}
    config = parse_config({"environment": {"kind": "canvas", "reward": reward}})
    assert config.environment.reward.measure == "dsl_text"
    assert config.environment.reward.min_operators == 4


def test_flowsteer_is_the_papers():
    config = load_config(next(p for p in CONFIGS if p.stem == "flowsteer_8b"))
    environment, objective, lora = config.environment, config.objective, config.learner.lora
    assert config.rollout.group_size * config.train.groups_per_batch == 36
    assert (environment.max_turns, environment.router) == (20, "off")
    reward = environment.reward
    shares = (
        reward.checker_share,
        reward.format_share,
        reward.operators_share,
        reward.structure_share,
    )
    assert (shares, reward.min_operators, reward.threshold) == ((0.2, 0.2, 0.2, 0.4), 5, 1.0)
    assert (objective.clip_low, objective.clip_high, objective.kl_coef) == (0.2, 0.2, 0.005)
    assert (objective.ratio_unit, objective.aggregate) == ("token", "sequence_mean")
    assert (lora.rank, lora.alpha, lora.dropout) == (64, 64, 0.05)
    assert (config.learner.lr, config.train.steps) == (1e-5, 300)
    assert (config.rollout.temperature, config.rollout.top_p) == (0.6, 0.95)


def test_workflow_r1_is_the_papers():
    config = load_config(next(p for p in CONFIGS if p.stem == "workflow_r1_7b"))
    environment, objective = config.environment, config.objective
    assert config.rollout.group_size * config.train.groups_per_batch == 4096
    assert config.learner.minibatches == 4
    assert (environment.max_operator_turns, environment.max_turns) == (20, 21)
    assert (environment.max_response_tokens, environment.observation_chars) == (8192, 2048)
    assert (objective.ratio_unit, objective.aggregate) == ("subsequence", "subsequence_mean")
    assert (objective.clip_low, objective.clip_high, objective.kl_coef) == (0.2, 0.2, 0.001)
    assert (config.learner.lr, config.learner.lora.rank, config.train.steps) == (1e-6, 0, 38)
