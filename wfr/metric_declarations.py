"""The metrics of a run, each declared once: name, type, unit, label, help, and where it comes from.

A run writes records (steps, evaluations, lost processes) to `metrics.jsonl`; `wfr.metrics` turns
the same records into Prometheus metrics. Names follow Prometheus' conventions: base units as the
suffix, `_total` behind counters, shares between 0 and 1 as `_ratio`.
"""

from __future__ import annotations

from wfr.episode_metrics import EPISODES
from wfr.executor_metrics import EXECUTORS
from wfr.learning_metrics import LEARNING
from wfr.metric import LAGS, SECONDS, Metric, evaluation, step, turn_lag
from wfr.supervision_metrics import SUPERVISION

METRICS: tuple[Metric, ...] = (
    # progress
    step("counter", "wfr_optimizer_steps_total", "steps", "step", "Steps that are published."),
    step("gauge", "wfr_policy_version", "", "version", "Weight version in force in all samplers."),
    step(
        "gauge",
        "wfr_last_step_timestamp_seconds",
        "seconds",
        "time",
        "Unix time of the last step; an old one means that the run does not advance.",
    ),
    # tokens: generated = consumed + waiting + the sum of discarded
    step(
        "counter",
        "wfr_generated_tokens_total",
        "tokens",
        "tokens/generated",
        "Policy tokens that the rollout workers reported.",
    ),
    step(
        "counter",
        "wfr_consumed_tokens_total",
        "tokens",
        "tokens/consumed",
        "Policy tokens trained on in a published step.",
    ),
    step(
        "counter",
        "wfr_discarded_tokens_total",
        "tokens",
        "tokens/discarded",
        "Policy tokens thrown away, by reason; no series before the first.",
        label="reason",
    ),
    step(
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
        buckets=LAGS,
    ),
    turn_lag("total", "lag", "Optimizer steps between a turn's oldest token and its training."),
    turn_lag("sampling", "sampling_lag", "The part of a turn's lag that passed while sampling."),
    turn_lag(
        "environment",
        "environment_lag",
        "The part of a turn's lag that passed between turns: operators, waiting for a sampler.",
    ),
    turn_lag(
        "queue",
        "queue_lag",
        "The part of a turn's lag that passed behind its episode: siblings, and the queue.",
    ),
    turn_lag("kv_age", "kv_age", "Versions between a turn's first and last token's weights."),
    step(
        "gauge",
        "wfr_buffer_slots",
        "slots",
        {state: f"slots/{state}" for state in ("free", "in_flight", "finished", "taken")},
        "Slots of the replay buffer after the last step, by the state of the group in them.",
        label="state",
    ),
    step(
        "counter",
        "wfr_replayed_tokens_total",
        "tokens",
        "tokens/replayed",
        "Consumed tokens that further steps trained on again, once per step.",
    ),
    step(
        "gauge",
        "wfr_buffer_bytes",
        "bytes",
        {"memory": "buffer/resident_bytes", "disk": "buffer/spilled_bytes"},
        "Columns of the groups in the replay buffer, by where they are.",
        label="place",
    ),
    step(
        "counter",
        "wfr_spilled_groups_total",
        "groups",
        "buffer/spilled_groups",
        "Groups that went to the disk because memory was short.",
    ),
    step(
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
        buckets=SECONDS,
    ),
    Metric(
        "wfr_publish_seconds",
        "histogram",
        "seconds",
        "Time to bring new weights into every sampler, replacements included.",
        "step",
        "publish/seconds",
        buckets=SECONDS,
    ),
    step(
        "gauge",
        "wfr_learner_phase_seconds",
        "seconds",
        "learner/phase_seconds",
        "Time of the last learner step by phase: reading the batch, measuring older versions, the "
        "proximal pass, the updates, other; they add up to the step.",
        label="phase",
    ),
    step(
        "gauge",
        "wfr_publish_phase_seconds",
        "seconds",
        "publish/phases",
        "Time of the last publication by phase, in the slowest sampler: holding generation still, "
        "receiving, installing, putting in force.",
        label="phase",
    ),
    step(
        "counter",
        "wfr_learner_wait_seconds_total",
        "seconds",
        "wait/learner_seconds",
        "Time that the learner has waited for batches.",
    ),
    step(
        "counter",
        "wfr_training_loop_seconds_total",
        "seconds",
        "seconds/training_loop",
        "Time of the training loop by what it does: waits for groups, trains, waits for a "
        "publication, or other; they add up.",
        label="phase",
    ),
    step(
        "counter",
        "wfr_worker_seconds_total",
        "seconds",
        "seconds/workers",
        "Time of all episodes by what they wait for: a sampler, an operator, or their own work; "
        "and of the workers for a slot of the buffer.",
        label="phase",
    ),
    # results
    step("gauge", "wfr_train_reward", "", "reward/mean", "Mean reward of the last batch."),
    step(
        "gauge",
        "wfr_train_exact_match_ratio",
        "ratio",
        "reward/correct",
        "Share of the last batch's episodes with the right answer.",
    ),
    evaluation("wfr_eval_version", "", "version", "Weight version that was evaluated last."),
    evaluation("wfr_eval_reward", "", "reward", "Mean reward on held-out tasks."),
    evaluation(
        "wfr_eval_exact_match_ratio", "ratio", "em", "Share of held-out tasks answered right."
    ),
    evaluation(
        "wfr_eval_skill_exact_match_ratio",
        "ratio",
        "skills",
        "Share of held-out tasks answered right, by skill.",
        label="skill",
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
    *LEARNING,
    *EPISODES,
    *EXECUTORS,
    *SUPERVISION,
)
