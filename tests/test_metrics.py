"""Run-level metrics: the declaration, and what records turn into."""

from __future__ import annotations

import json
import math
import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from wfr.metric_declarations import METRICS
from wfr.metrics import MAX_LABEL_VALUES, RunMetrics

UNITS = {
    "",
    "seconds",
    "tokens",
    "steps",
    "slots",
    "ratio",
    "nats",
    "losses",
    "processes",
    "quarantines",
    "stalls",
    "restarts",
}
UNITS |= {"bytes", "groups", "calls", "requests", "usd", "openings"}
UNITS |= {"episodes", "turns", "retries", "programs"}

STEP = {
    "kind": "step",
    "time": 1_700_000_000.5,
    "step": 1,
    "version": 1,
    "ratio": 0.99,
    "ratio_min": 0.5,
    "ratio_max": 1.5,
    "clip_fraction_low": 0.01,
    "clip_fraction_high/lag_2": 0.04,
    "masked_fraction/lag_3": 0.03,
    "reward/format": -0.25,
    "reward/format_faults": 0.5,
    "learner/phase_seconds": {"read": 0.1, "proximal": 0.4, "update": 0.9, "other": 0.1},
    "publish/phases": {"hold": 0.01, "receive": 0.2, "install": 0.02, "commit": 0.01},
    "episodes/ended": {"answered": 5, "backend_failed": 1},
    "episodes/retried": {"backend_failed": 1},
    "episodes/turns": {"tool": 9, "answer": 5, "malformed": 1},
    "operators/statuses": {"ok": 8, "timeout": 1},
    "operators/sandbox": {"timeout": 1},
    "operators/seconds": {"Search": {"0.01": 7}, "Programmer": {"5.0": 1, "1000000000.0": 1}},
    "clip_fraction_high": 0.02,
    "clip_fraction_dual": 0.0,
    "correction": 1.1,
    "correction_min": 0.2,
    "correction_max": 3.0,
    "correction_fraction": 0.05,
    "w_stale": 1.05,
    "w_mismatch": 1.001,
    "w_mismatch/lag_0": 1.002,
    "kl_proximal": 1e-4,
    "kl_behaviour": 2e-4,
    "kl_reference": 3e-4,
    "entropy": 0.7,
    "ratio_ess": 0.9,
    "correction_ess": 0.8,
    "masked_fraction": 0.1,
    "rejected_fraction": 0.02,
    "ratio/lag_0": 1.0,
    "ratio/lag_2": 0.98,
    "correction/lag_0": 1.01,
    "batch/zero_variance_ratio": 0.25,
    "reward/mean": -0.25,
    "reward/correct": 0.375,
    "learner/grad_norm": 2.5,
    "learner/step_seconds": 1.5,
    "lag/histogram": {0: 3, 1: 1},
    "lag/turn_total": {0: 2, 3: 4},
    "lag/turn_sampling": {0: 5, 1: 1},
    "lag/turn_environment": {0: 5, 1: 1},
    "lag/turn_queue": {0: 2, 2: 4},
    "lag/turn_kv_age": {0: 6, 1: 1},
    "publish/seconds": 0.2,
    "wait/learner_seconds": 4.0,
    "seconds/training_loop": {"groups": 3.0, "train": 1.0},
    "seconds/workers": {"sampler": 9.0, "operator": 2.0},
    "tokens/generated": 1000,
    "tokens/consumed": 600,
    "tokens/discarded": {"late": 100},
    "tokens/waiting": 300,
    "tokens/replayed": 20,
    "buffer/resident_bytes": 4096,
    "buffer/spilled_bytes": 512,
    "buffer/spilled_groups": 3,
    "buffer/spill_failures": 1,
    "slots/free": 4,
    "slots/in_flight": 3,
    "slots/finished": 1,
    "slots/taken": 0,
}
EVAL = {
    "kind": "eval",
    "time": 1_700_000_001.0,
    "version": 7,
    "em": 0.5,
    "skills": {"hop1": 1.0, "hop2": 0.0},
    "reward": 0.25,
}
LOST_SAMPLER = {"kind": "sampler_lost", "name": "sampler-0", "why": "killed", "samplers/lost": 1}
REFUSED = {"kind": "refused", "version": 3, "groups": {}, "groups/refused": {"not_finite": 2}}
EXECUTOR = {
    "kind": "executor",
    "executor/calls": {"Review": 8},
    "executor/requests": {"main": 3},
    "executor/failed": {"main": 1},
    "executor/tokens": {"main": 54},
    "executor/usd": {"main": 0.5},
    "executor/seconds": {"main": 1.5},
    "executor/source_usd": {"hotpotqa": 0.5},
    "executor/hits": 4,
    "executor/shared": 2,
    "executor/hit_ratio": 0.75,
    "executor/saved_usd": 1.5,
    "executor/set_aside": 1,
    "executor/hedges": 1,
    "executor/down": {"main": 1},
    "executor/openings": {"main": 1},
}
SILENT = {"kind": "silent", "name": "worker-0", "silent": {"worker": 1}}
STALL = {"kind": "stall", "stall/seconds": 300.0, "stall/count": 1}
QUARANTINE = {"kind": "quarantine", "node": "a1", "quarantine/count": 1}
LOST_WORKER = {"kind": "worker_lost", "name": "worker-0", "workers/restarts": 1}
RUN = {"kind": "run", "buffer/max_lag": 4, "train/steps": 60, "executor/budget_usd": 5.0}
DISK = {"kind": "disk", "disk/full": 1}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return RunMetrics(registry)


def exposition(registry):
    """Sample name and labels → value, as a scraper reads them."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        (sample.name, *sample.labels.values()): sample.value
        for sample in samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_declaration_follows_the_conventions(metric):
    assert re.fullmatch(r"wfr_[a-z][a-z_]*[a-z]", metric.name)
    assert metric.unit in UNITS
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.removesuffix("_total").endswith(metric.unit)
    assert metric.help.endswith(".")
    assert metric.help[0].isupper()
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.label or isinstance(metric.source, str)


def test_names_are_declared_once():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


def test_every_metric_is_exported_as_declared(metrics, registry):
    for record in (
        *(STEP, EVAL, EXECUTOR, REFUSED, LOST_SAMPLER, LOST_WORKER, RUN, DISK),
        *(SILENT, STALL, QUARANTINE),
    ):
        metrics.observe(record)
    text = generate_openmetrics(registry).decode()
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text)}
    assert families.keys() == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        declared = (metric.kind, metric.unit, metric.help)
        assert (family.type, family.unit, family.documentation) == declared
        labels = {name for s in family.samples for name in s.labels} - {"le"}
        assert labels == ({metric.label} if metric.label else set())
        assert any(sample.value for sample in family.samples), metric.name


def test_two_steps_give_the_expected_exposition(metrics, registry):
    metrics.observe(STEP)
    second = {
        "step": 2,
        "version": 2,
        "lag/histogram": {1: 2, 3: 2},
        "learner/step_seconds": 2.5,
        "wait/learner_seconds": 4.5,
        "tokens/generated": 1800,
        "tokens/consumed": 1100,
        "tokens/discarded": {"late": 150, "incomplete": 50},
        "tokens/waiting": 500,
        "slots/free": 8,
    }
    metrics.observe({**STEP, **second})
    assert (
        exposition(registry).items()
        >= {
            ("wfr_optimizer_steps_total",): 2,
            ("wfr_policy_version",): 2,
            ("wfr_last_step_timestamp_seconds",): 1_700_000_000.5,
            ("wfr_generated_tokens_total",): 1800,
            ("wfr_consumed_tokens_total",): 1100,
            ("wfr_discarded_tokens_total", "late"): 150,
            ("wfr_discarded_tokens_total", "incomplete"): 50,
            ("wfr_waiting_tokens",): 500,
            ("wfr_group_lag_steps_count",): 8,
            ("wfr_group_lag_steps_sum",): 1 + 2 + 6,
            ("wfr_group_lag_steps_bucket", "0.0"): 3,
            ("wfr_group_lag_steps_bucket", "1.0"): 6,
            ("wfr_group_lag_steps_bucket", "3.0"): 8,
            ("wfr_buffer_slots", "free"): 8,
            ("wfr_buffer_slots", "in_flight"): 3,
            ("wfr_learner_step_seconds_sum",): 4.0,
            ("wfr_learner_step_seconds_count",): 2,
            ("wfr_publish_seconds_bucket", "0.25"): 2,
            ("wfr_learner_wait_seconds_total",): 4.5,
            ("wfr_train_reward",): -0.25,
            ("wfr_train_exact_match_ratio",): 0.375,
            ("wfr_gradient_norm",): 2.5,
            ("wfr_entropy_nats",): 0.7,
            ("wfr_importance_ratio", "max"): 1.5,
            ("wfr_clipped_units_ratio", "high"): 0.02,
            ("wfr_kl_nats", "reference"): 3e-4,
            ("wfr_correction_weight", "mean"): 1.1,
            ("wfr_bounded_corrections_ratio",): 0.05,
            ("wfr_clipped_units_ratio_by_lag", "2"): 0.04,
            ("wfr_learner_phase_seconds", "proximal"): 0.4,
            ("wfr_publish_phase_seconds", "receive"): 0.2,
            ("wfr_reward_part", "format"): -0.25,
            ("wfr_episodes_total", "answered"): 5,
            ("wfr_turns_total", "malformed"): 1,
            ("wfr_operator_call_seconds_count", "Search"): 14,
        }.items()
    )


def test_the_ledger_closes_in_the_exposition(metrics, registry):
    metrics.observe(STEP)
    samples = exposition(registry)
    discarded = sum(v for key, v in samples.items() if key[0] == "wfr_discarded_tokens_total")
    spent = samples["wfr_consumed_tokens_total",] + samples["wfr_waiting_tokens",] + discarded
    assert samples["wfr_generated_tokens_total",] == spent


def test_an_evaluation_is_not_a_step(metrics, registry):
    metrics.observe(STEP)
    metrics.observe(EVAL)
    samples = exposition(registry)
    assert samples["wfr_policy_version",] == 1
    assert samples["wfr_eval_version",] == 7
    assert samples["wfr_eval_exact_match_ratio",] == 0.5
    assert samples["wfr_eval_skill_exact_match_ratio", "hop2"] == 0.0
    assert samples["wfr_train_reward",] == -0.25
    assert samples["wfr_eval_reward",] == 0.25


def test_losses_are_counted_from_zero(metrics, registry):
    before = exposition(registry)
    assert before["wfr_sampler_losses_total",] == before["wfr_worker_restarts_total",] == 0
    metrics.observe({**LOST_SAMPLER, "samplers/lost": 2})
    metrics.observe(LOST_WORKER)
    after = exposition(registry)
    assert after["wfr_sampler_losses_total",] == 2
    assert after["wfr_worker_restarts_total",] == 1


@pytest.mark.parametrize("fed", [[10, 25, 25, 40], [10, 4, 40], [40, 0, 39]])
def test_counters_follow_cumulative_values_and_never_fall(metrics, registry, fed):
    shown = []
    for value in fed:
        metrics.observe({**STEP, "tokens/generated": value, "tokens/discarded": {"late": value}})
        samples = exposition(registry)
        shown.append(samples["wfr_generated_tokens_total",])
        assert samples["wfr_discarded_tokens_total", "late"] == shown[-1]
    assert shown == [max(fed[: i + 1]) for i in range(len(fed))]


def test_records_from_metrics_jsonl_count_like_live_ones(metrics, registry):
    other = CollectorRegistry()
    from_file = RunMetrics(other)
    for record in (STEP, EVAL, LOST_SAMPLER):
        metrics.observe(record)
        from_file.observe(json.loads(json.dumps(record)))
    assert exposition(registry) == exposition(other)


def test_a_gauge_is_absent_until_it_is_measured(metrics, registry):
    assert ("wfr_entropy_nats",) not in exposition(registry)
    metrics.observe({k: v for k, v in STEP.items() if k != "entropy"})
    samples = exposition(registry)
    assert ("wfr_entropy_nats",) not in samples
    assert samples["wfr_policy_version",] == 1


@pytest.mark.parametrize("record", [{}, {"kind": "step"}, {"kind": "eval"}, {"kind": "other"}])
def test_missing_keys_change_nothing(metrics, registry, record):
    before = exposition(registry)
    metrics.observe(record)
    assert exposition(registry) == before


def test_unknown_keys_change_nothing(metrics, registry):
    before = exposition(registry)
    metrics.observe({"kind": "step", "advantage": 0.1, "batch/rows": 8, "reward/f1": None})
    metrics.observe({"kind": "eval", "stop_reasons": {"answered": 3}, "tasks": 3})
    assert exposition(registry) == before


def test_a_null_counts_as_missing(metrics, registry):
    metrics.observe({**EVAL, "em": None, "skills": {"hop1": None, "hop2": 0.5}})
    samples = exposition(registry)
    assert ("wfr_eval_exact_match_ratio",) not in samples
    assert ("wfr_eval_skill_exact_match_ratio", "hop1") not in samples
    assert samples["wfr_eval_skill_exact_match_ratio", "hop2"] == 0.5


def test_an_evaluation_without_a_graded_task_is_no_number(metrics, registry):
    metrics.observe({**EVAL, "em": math.nan})
    assert math.isnan(exposition(registry)["wfr_eval_exact_match_ratio",])


def test_labels_are_bounded(metrics, registry):
    many = {f"s{i:03}": 1.0 for i in range(3 * MAX_LABEL_VALUES)}
    for tokens in (10, 20):
        reasons = dict.fromkeys(many, tokens)
        metrics.observe({**STEP, "tokens/discarded": reasons})
        metrics.observe({**EVAL, "skills": many})
    samples = exposition(registry)
    discarded = {k[1]: v for k, v in samples.items() if k[0] == "wfr_discarded_tokens_total"}
    skills = [k for k in samples if k[0] == "wfr_eval_skill_exact_match_ratio"]
    assert len(discarded) == len(skills) == MAX_LABEL_VALUES
    assert discarded["s000"] == 20
    assert sum(discarded.values()) == 20 * len(many)


def test_two_runs_share_nothing(metrics, registry):
    other = CollectorRegistry()
    RunMetrics(other)
    metrics.observe(STEP)
    assert exposition(other)["wfr_generated_tokens_total",] == 0
