"""The metrics of a run, each declared once: name, type, unit, label, help, and where it comes from.

A run writes records (steps, evaluations, lost processes) to `metrics.jsonl`; `wfr.metrics` turns
the same records into Prometheus metrics. Names follow Prometheus' conventions: base units as the
suffix, `_total` behind counters, shares between 0 and 1 as `_ratio`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_LAG_BUCKETS = ("0", "1", "2", "3", "4", "5_8", "9_up")
_LAGS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as Prometheus shows it; ends with the unit, and `_total` for a counter.
        kind: counters are fed their cumulative value, gauges their current one, histograms single
            observations or a mapping from observation to count.
        unit: base unit; empty for numbers without one.
        help: what it says, for a person.
        record: kind of the records that carry it.
        source: the record's key; where each label value has a key of its own, label value → key. A
            mapping under a single key is read as label value → number.
        label: name of the label, if there is one.
        buckets: upper bounds of a histogram, in `unit`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    record: str
    source: str | Mapping[str, str]
    label: str = ""
    buckets: tuple[float, ...] = ()

    def readings(self, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Label value (or observation; empty if neither) and number of all that is in `record`.

        A null, which is how `metrics.jsonl` writes what is no number, counts as missing.
        """
        for key, number in self._entries(record):
            if number is not None:
                yield str(key), number

    def _entries(self, record: Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
        if not isinstance(self.source, str):
            return ((label, record.get(key)) for label, key in self.source.items())
        value = record.get(self.source)
        return value.items() if isinstance(value, Mapping) else [("", value)]


def _of(
    record: str,
    kind: Literal["counter", "gauge"],
    name: str,
    unit: str,
    source: str | dict[str, str],
    help_: str,
    label: str = "",
) -> Metric:
    keys = source if isinstance(source, str) else types.MappingProxyType(source)
    return Metric(name, kind, unit, help_, record, keys, label)


_step = functools.partial(_of, "step")
_executor = functools.partial(_of, "executor")


def _turn_lag(key: str, name: str, help_: str) -> Metric:
    return Metric(
        *(f"wfr_turn_{name}_steps", "histogram", "steps", help_, "step", f"lag/turn_{key}"),
        buckets=_LAGS,
    )


def _eval(name: str, unit: str, source: str, help_: str, label: str = "") -> Metric:
    return Metric(name, "gauge", unit, help_, "eval", source, label)


METRICS: tuple[Metric, ...] = (
    # progress
    _step("counter", "wfr_optimizer_steps_total", "steps", "step", "Steps that are published."),
    _step("gauge", "wfr_policy_version", "", "version", "Weight version in force in all samplers."),
    _step(
        "gauge",
        "wfr_last_step_timestamp_seconds",
        "seconds",
        "time",
        "Unix time of the last step; an old one means that the run does not advance.",
    ),
    # tokens: generated = consumed + waiting + the sum of discarded
    _step(
        "counter",
        "wfr_generated_tokens_total",
        "tokens",
        "tokens/generated",
        "Policy tokens that the rollout workers reported.",
    ),
    _step(
        "counter",
        "wfr_consumed_tokens_total",
        "tokens",
        "tokens/consumed",
        "Policy tokens trained on in a published step.",
    ),
    _step(
        "counter",
        "wfr_discarded_tokens_total",
        "tokens",
        "tokens/discarded",
        "Policy tokens thrown away, by reason; no series before the first.",
        label="reason",
    ),
    _step(
        "gauge",
        "wfr_waiting_tokens",
        "tokens",
        "tokens/waiting",
        "Policy tokens of groups that are finished or taken.",
    ),
    # staleness and the buffer
    Metric(
        "wfr_group_lag_steps",
        "histogram",
        "steps",
        "Optimizer steps between a group's oldest token and the step that trained on it.",
        "step",
        "lag/histogram",
        buckets=_LAGS,
    ),
    _turn_lag("total", "lag", "Optimizer steps between a turn's oldest token and its training."),
    _turn_lag("sampling", "sampling_lag", "The part of a turn's lag that passed while sampling."),
    _turn_lag(
        "environment",
        "environment_lag",
        "The part of a turn's lag that passed between turns: operators, waiting for a sampler.",
    ),
    _turn_lag(
        "queue",
        "queue_lag",
        "The part of a turn's lag that passed behind its episode: siblings, and the queue.",
    ),
    _turn_lag("kv_age", "kv_age", "Versions between a turn's first and last token's weights."),
    _step(
        "gauge",
        "wfr_buffer_slots",
        "slots",
        {state: f"slots/{state}" for state in ("free", "in_flight", "finished", "taken")},
        "Slots of the replay buffer after the last step, by the state of the group in them.",
        label="state",
    ),
    _step(
        "counter",
        "wfr_replayed_tokens_total",
        "tokens",
        "tokens/replayed",
        "Consumed tokens that further steps trained on again, once per step.",
    ),
    _step(
        "gauge",
        "wfr_buffer_bytes",
        "bytes",
        {"memory": "buffer/resident_bytes", "disk": "buffer/spilled_bytes"},
        "Columns of the groups in the replay buffer, by where they are.",
        label="place",
    ),
    _step(
        "counter",
        "wfr_spilled_groups_total",
        "groups",
        "buffer/spilled_groups",
        "Groups that went to the disk because memory was short.",
    ),
    _step(
        "counter",
        "wfr_unspilled_groups_total",
        "groups",
        "buffer/spill_failures",
        "Groups that the disk did not take, so that they stayed in memory above its bound.",
    ),
    # time
    Metric(
        "wfr_learner_step_seconds",
        "histogram",
        "seconds",
        "Time of one learner step: all minibatches of one batch.",
        "step",
        "learner/step_seconds",
        buckets=_SECONDS,
    ),
    Metric(
        "wfr_publish_seconds",
        "histogram",
        "seconds",
        "Time to bring new weights into every sampler, replacements included.",
        "step",
        "publish/seconds",
        buckets=_SECONDS,
    ),
    _step(
        "counter",
        "wfr_learner_wait_seconds_total",
        "seconds",
        "wait/learner_seconds",
        "Time that the learner has waited for batches.",
    ),
    _step(
        "counter",
        "wfr_training_loop_seconds_total",
        "seconds",
        "seconds/training_loop",
        "Time of the training loop by what it does: waits for groups, trains, waits for a "
        "publication, or other; they add up.",
        label="phase",
    ),
    _step(
        "counter",
        "wfr_worker_seconds_total",
        "seconds",
        "seconds/workers",
        "Time of all episodes by what they wait for: a sampler, an operator, or their own work; "
        "and of the workers for a slot of the buffer.",
        label="phase",
    ),
    # results
    _step("gauge", "wfr_train_reward", "", "reward/mean", "Mean reward of the last batch."),
    _step(
        "gauge",
        "wfr_train_exact_match_ratio",
        "ratio",
        "reward/correct",
        "Share of the last batch's episodes with the right answer.",
    ),
    _eval("wfr_eval_version", "", "version", "Weight version that was evaluated last."),
    _eval("wfr_eval_reward", "", "reward", "Mean reward on held-out tasks."),
    _eval("wfr_eval_exact_match_ratio", "ratio", "em", "Share of held-out tasks answered right."),
    _eval(
        "wfr_eval_skill_exact_match_ratio",
        "ratio",
        "skills",
        "Share of held-out tasks answered right, by skill.",
        label="skill",
    ),
    # optimisation, all of the last step
    _step(
        "gauge",
        "wfr_gradient_norm",
        "",
        "learner/grad_norm",
        "Norm of the gradient before clipping.",
    ),
    _step("gauge", "wfr_entropy_nats", "nats", "entropy", "Mean entropy per policy token."),
    _step(
        "gauge",
        "wfr_importance_ratio",
        "ratio",
        {"mean": "ratio", "min": "ratio_min", "max": "ratio_max"},
        "Importance ratio per unit of the objective, before clipping.",
        label="statistic",
    ),
    _step(
        "gauge",
        "wfr_clipped_units_ratio",
        "ratio",
        {side: f"clip_fraction_{side}" for side in ("low", "high", "dual")},
        "Share of units whose ratio was clipped, by bound.",
        label="bound",
    ),
    _step(
        "gauge",
        "wfr_kl_nats",
        "nats",
        {policy: f"kl_{policy}" for policy in ("proximal", "behaviour", "reference")},
        "KL divergence per policy token from another policy (k3 estimator).",
        label="policy",
    ),
    _step(
        "gauge",
        "wfr_correction_weight",
        "",
        {"mean": "correction", "min": "correction_min", "max": "correction_max"},
        "Weight of a stale behaviour policy per unit, before it is bounded.",
        label="statistic",
    ),
    _step(
        "gauge",
        "wfr_bounded_corrections_ratio",
        "ratio",
        "correction_fraction",
        "Share of units whose correction weight was truncated or masked.",
    ),
    _step(
        "gauge",
        "wfr_staleness_weight",
        "",
        {"stale": "w_stale", "mismatch": "w_mismatch"},
        "Factors of the weight of a stale behaviour policy, mean per unit, measured on a sample: "
        "older weights in one engine, and the same weights in two engines.",
        label="factor",
    ),
    _step(
        "gauge",
        "wfr_engine_mismatch_weight",
        "",
        {bucket: f"w_mismatch/lag_{bucket}" for bucket in _LAG_BUCKETS},
        "The factor of two engines by the lag of the turn; far from 1 at every lag, 0 too, it is a "
        "fault of an engine.",
        label="lag",
    ),
    _step(
        "gauge",
        "wfr_effective_sample_size_ratio",
        "ratio",
        {"ratio": "ratio_ess", "correction": "correction_ess"},
        "Effective sample size of a weight as a share of the units: 1 where all weigh the same.",
        label="weight",
    ),
    _step(
        "gauge",
        "wfr_masked_tokens_ratio",
        "ratio",
        {"all": "masked_fraction", "rejected": "rejected_fraction"},
        "Share of policy tokens that did not count: all of them, and those of rejected units.",
        label="cause",
    ),
    _step(
        "gauge",
        "wfr_importance_ratio_by_lag",
        "",
        {bucket: f"ratio/lag_{bucket}" for bucket in _LAG_BUCKETS},
        "Mean importance ratio by the lag of the turn.",
        label="lag",
    ),
    _step(
        "gauge",
        "wfr_correction_weight_by_lag",
        "",
        {bucket: f"correction/lag_{bucket}" for bucket in _LAG_BUCKETS},
        "Mean weight of a stale behaviour policy by the lag of the turn: at lag 0 it shows how far "
        "sampler and learner differ with equal weights.",
        label="lag",
    ),
    _step(
        "gauge",
        "wfr_zero_variance_groups_ratio",
        "ratio",
        "batch/zero_variance_ratio",
        "Share of the last batch's groups whose rewards were all equal.",
    ),
    Metric(
        "wfr_refused_groups_total",
        "counter",
        "groups",
        "Groups that could not be trained on, by reason; no series before the first.",
        "refused",
        "groups/refused",
        label="reason",
    ),
    # executors, since the beginning of the run
    _executor(
        "counter",
        "wfr_executor_calls_total",
        "calls",
        "executor/calls",
        "Calls of operators that an executor carries out.",
        label="operator",
    ),
    _executor(
        "counter",
        "wfr_executor_requests_total",
        "requests",
        "executor/requests",
        "Requests sent to a backend, every attempt and hedge counted.",
        label="backend",
    ),
    _executor(
        "counter",
        "wfr_executor_failed_requests_total",
        "requests",
        "executor/failed",
        "Requests that brought no proper reply.",
        label="backend",
    ),
    _executor(
        "counter",
        "wfr_executor_tokens_total",
        "tokens",
        "executor/tokens",
        "Prompt and completion tokens that a backend was paid for.",
        label="backend",
    ),
    _executor(
        "counter",
        "wfr_executor_cost_usd_total",
        "usd",
        "executor/usd",
        "US dollars spent, by the configured prices.",
        label="backend",
    ),
    _executor(
        "counter",
        "wfr_executor_source_cost_usd_total",
        "usd",
        "executor/source_usd",
        "US dollars spent, by task source.",
        label="source",
    ),
    _executor(
        "counter",
        "wfr_executor_busy_seconds_total",
        "seconds",
        "executor/seconds",
        "Time from call to answer, summed over calls that ran side by side.",
        label="backend",
    ),
    _executor(
        "counter",
        "wfr_executor_saved_calls_total",
        "calls",
        {"cache": "executor/hits", "in_flight": "executor/shared"},
        "Calls that the cache, or an identical call under way, answered.",
        label="by",
    ),
    _executor(
        "gauge",
        "wfr_executor_saved_ratio",
        "ratio",
        "executor/hit_ratio",
        "Share of all calls that the cache, or an identical call under way, answered.",
    ),
    _executor(
        "counter",
        "wfr_executor_saved_usd_total",
        "usd",
        "executor/saved_usd",
        "US dollars that those calls would have cost.",
    ),
    _executor(
        "counter",
        "wfr_executor_set_aside_calls_total",
        "calls",
        "executor/set_aside",
        "Calls that no attempt could answer; their episodes were not scored.",
    ),
    _executor(
        "counter",
        "wfr_executor_hedged_requests_total",
        "requests",
        "executor/hedges",
        "Requests sent beside a slow one.",
    ),
    _executor(
        "gauge",
        "wfr_executor_down",
        "",
        "executor/down",
        "Whether a backend counts as down, and workers wait for it (1) or not (0).",
        label="backend",
    ),
    _executor(
        "counter",
        "wfr_executor_circuit_openings_total",
        "openings",
        "executor/openings",
        "How often a backend went down.",
        label="backend",
    ),
    # what the run was told, and what it waits for
    Metric(
        "wfr_max_lag_steps",
        "gauge",
        "steps",
        "Bound on the lag of what is trained on.",
        "run",
        "buffer/max_lag",
    ),
    Metric(
        "wfr_target_steps",
        "gauge",
        "steps",
        "Optimizer steps that the run is to take.",
        "run",
        "train/steps",
    ),
    Metric(
        "wfr_executor_budget_usd",
        "gauge",
        "usd",
        "US dollars that the run may spend on executors, where that is bounded.",
        "run",
        "executor/budget_usd",
    ),
    Metric(
        "wfr_disk_full",
        "gauge",
        "",
        "Whether the run waits for room on its disk (1) or not (0).",
        "disk",
        "disk/full",
    ),
    # lost processes
    Metric(
        "wfr_sampler_losses_total",
        "counter",
        "losses",
        "Samplers that died or were taken out after a failed weight update.",
        "sampler_lost",
        "samplers/lost",
    ),
    Metric(
        "wfr_worker_restarts_total",
        "counter",
        "restarts",
        "Rollout workers that died and were started again.",
        "worker_lost",
        "workers/restarts",
    ),
    Metric(
        "wfr_learner_restarts_total",
        "counter",
        "restarts",
        "Times that a learner rank died or hung, and all ranks were started again.",
        "learner_lost",
        "learner/restarts",
    ),
)
