"""Alerts: what is wrong, for how long, what to do; and how each one is shown to fire and to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import yaml


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """One rule and its test.

    Attributes:
        expr: PromQL; every series of its result is one alert, labelled by its run.
        hold: how long it has to be so.
        summary: what is wrong; may use Prometheus' templates.
        remedy: what to do.
        series: samples by series, a minute apart, in promtool's notation: under them the alert
            fires at minute `fires` and has ended at minute `ends`.
    """

    name: str
    expr: str
    hold: str
    summary: str
    remedy: str
    series: Mapping[str, str]
    fires: int
    ends: int
    severity: Literal["warning", "critical"] = "warning"

    @property
    def runbook(self) -> str:
        """Where the alert is explained."""
        return f"docs/monitoring.md#{self.name.lower()}"


def _of(metric: str, labels: str = "") -> str:
    more = f",{labels}" if labels else ""
    return f'{metric}{{run="r"{more}}}'


ALERTS = (
    Alert(
        "RunStalled",
        "time() - wfr_last_step_timestamp_seconds > 1800",
        "1m",
        "run {{ $labels.run }} has taken no step for half an hour",
        "look at what the training loop does (overview) and at the logs of whom it waits for",
        {_of("wfr_last_step_timestamp_seconds"): "0x40 2400+60x20"},
        fires=35,
        ends=50,
        severity="critical",
    ),
    Alert(
        "ExporterDown",
        'up{job="wfr"} == 0',
        "2m",
        "run {{ $labels.run }} cannot be scraped: it has ended, or its driver is gone",
        "`wfr train runs/NAME --resume` goes on with a run that was killed",
        {'up{job="wfr",run="r"}': "1x2 0x10 1x10"},
        fires=8,
        ends=16,
        severity="critical",
    ),
    Alert(
        "LagAtBound",
        "histogram_quantile(0.5, sum by (run, le) (rate(wfr_group_lag_steps_bucket[10m]))) "
        ">= on (run) wfr_max_lag_steps and on (run) wfr_max_lag_steps > 0",
        "10m",
        "half of the groups of run {{ $labels.run }} are as stale as they may be",
        "the learner is the bottleneck: give it more, take samplers away, or lower buffer.max_lag",
        {
            _of("wfr_max_lag_steps"): "4x60",
            _of("wfr_group_lag_steps_bucket", 'le="3.0"'): "0x20 0+10x40",
            _of("wfr_group_lag_steps_bucket", 'le="4.0"'): "0x20 0+10x40",
            _of("wfr_group_lag_steps_bucket", 'le="6.0"'): "0+10x60",
            _of("wfr_group_lag_steps_bucket", 'le="+Inf"'): "0+10x60",
        },
        fires=18,
        ends=45,
    ),
    Alert(
        "DiscardedTokens",
        "sum by (run) (increase(wfr_discarded_tokens_total[30m])) "
        "/ sum by (run) (increase(wfr_generated_tokens_total[30m])) > 0.05",
        "10m",
        "run {{ $labels.run }} throws away {{ $value | humanizePercentage }} of its tokens",
        "see which reason it is (overview, discarded tokens)",
        {
            _of("wfr_generated_tokens_total"): "0+1000x90",
            _of("wfr_discarded_tokens_total", 'reason="late"'): "0+100x30 3000x60",
        },
        fires=25,
        ends=75,
    ),
    Alert(
        "RewardCollapse",
        "avg_over_time(wfr_train_reward[10m]) "
        "< avg_over_time(wfr_train_reward[1h] offset 10m) - 0.25",
        "5m",
        "the reward of run {{ $labels.run }} has fallen by more than 0.25 within the hour",
        "look at entropy, clipped units and lag; go back to a checkpoint with a lower learner.lr",
        {_of("wfr_train_reward"): "0.8x60 0.2x120"},
        fires=80,
        ends=170,
    ),
    Alert(
        "EntropyCollapse",
        "wfr_entropy_nats < 0.01",
        "10m",
        "the policy of run {{ $labels.run }} has stopped exploring",
        "raise objective.entropy_coef or rollout.temperature; if the score is fine, stop the run",
        {_of("wfr_entropy_nats"): "0.2x5 0.001x20 0.2x20"},
        fires=20,
        ends=30,
    ),
    Alert(
        "ClipStorm",
        "sum by (run) (wfr_clipped_units_ratio) > 0.4",
        "10m",
        "{{ $value | humanizePercentage }} of the units of run {{ $labels.run }} are clipped",
        "steps are too large or data too stale for the clip range: lower learner.lr or max_lag",
        {
            _of("wfr_clipped_units_ratio", 'bound="low"'): "0x5 0.3x20 0x20",
            _of("wfr_clipped_units_ratio", 'bound="high"'): "0x5 0.3x20 0x20",
        },
        fires=20,
        ends=30,
    ),
    Alert(
        "EngineMismatch",
        'abs(wfr_correction_weight_by_lag{lag="0"} - 1) > 0.1',
        "10m",
        "sampler and learner of run {{ $labels.run }} disagree with equal weights",
        "a fault of an engine or of the weight transfer: set weights.checksums and look at dtypes",
        {_of("wfr_correction_weight_by_lag", 'lag="0"'): "1x5 1.3x20 1x20"},
        fires=20,
        ends=30,
        severity="critical",
    ),
    Alert(
        "RefusedGroups",
        "increase(wfr_refused_groups_total[10m]) > 0",
        "1m",
        "groups of run {{ $labels.run }} could not be trained on: {{ $labels.reason }}",
        "the groups are in the run's refused/, the reasons in its metrics.jsonl",
        {_of("wfr_refused_groups_total", 'reason="not_finite"'): "0x5 4x40"},
        fires=10,
        ends=30,
    ),
    Alert(
        "BackendDown",
        "wfr_executor_down == 1",
        "2m",
        "executor backend {{ $labels.backend }} of run {{ $labels.run }} is down; workers wait",
        "see the provider's status; without success the run ends after breaker.give_up_s",
        {_of("wfr_executor_down", 'backend="b"'): "0x2 1x10 0x10"},
        fires=8,
        ends=16,
        severity="critical",
    ),
    Alert(
        "CostBudget",
        "sum by (run) (wfr_executor_cost_usd_total) / on (run) wfr_executor_budget_usd > 0.9",
        "1m",
        "run {{ $labels.run }} has spent {{ $value | humanizePercentage }} of its budget",
        "raise executor.budget.run.usd and resume, or let the run pause",
        {
            _of("wfr_executor_cost_usd_total", 'backend="b"'): "0+10x10 100x10",
            _of("wfr_executor_budget_usd"): "100x12 200x10",
        },
        fires=12,
        ends=18,
    ),
    Alert(
        "DiskFull",
        "wfr_disk_full == 1",
        "0m",
        "run {{ $labels.run }} waits for room on its disk",
        "make room under run.dir; it goes on by itself, nothing is lost",
        {_of("wfr_disk_full"): "0x2 1x5 0x5"},
        fires=4,
        ends=10,
        severity="critical",
    ),
    Alert(
        "Restarts",
        "sum by (run) (increase(wfr_sampler_losses_total[30m])) "
        "+ sum by (run) (increase(wfr_worker_restarts_total[30m])) "
        "+ sum by (run) (increase(wfr_learner_restarts_total[30m])) > 3",
        "0m",
        "processes of run {{ $labels.run }} keep dying",
        "see which (cluster) and their logs in the run directory: memory is the usual cause",
        {
            _of("wfr_sampler_losses_total"): "0 1 2 3 4 5x60",
            _of("wfr_worker_restarts_total"): "0x65",
            _of("wfr_learner_restarts_total"): "0x65",
        },
        fires=8,
        ends=45,
    ),
)


def rules() -> dict[str, Any]:
    """What Prometheus reads as a rule file."""
    return {
        "groups": [
            {
                "name": "wfr",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expr,
                        "for": alert.hold,
                        "labels": {"severity": alert.severity},
                        "annotations": {
                            "summary": alert.summary,
                            "description": alert.remedy,
                            "runbook_url": alert.runbook,
                        },
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }


def rule_tests(rule_file: str) -> str:
    """What `promtool test rules` reads: every alert fires under its series, and ends."""
    tests = [_test(alert) for alert in ALERTS]
    return yaml.safe_dump(
        {"rule_files": [rule_file], "evaluation_interval": "1m", "tests": tests}, sort_keys=False
    )


_FIRING = 'count(ALERTS{{alertname="{}",alertstate="firing"}}) or vector(0)'


def _test(alert: Alert) -> dict[str, Any]:
    return {
        "name": alert.name,
        "interval": "1m",
        "input_series": [{"series": s, "values": v} for s, v in alert.series.items()],
        "promql_expr_test": [
            {
                "expr": _FIRING.format(alert.name),
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": value}],
            }
            for minute, value in ((alert.fires, 1), (alert.ends, 0))
        ],
    }
