"""Metrics of the optimisation, all of the last step."""

from __future__ import annotations

from wfr.metric import LAG_BUCKETS, Metric, step

REWARD_PARTS = ("format", "outcome", "offset", "diversity", "constraint", "answer")
"""Of `wfr.rewards.think_act` and of `wfr.rewards.canvas`."""

LEARNING: tuple[Metric, ...] = (
    # optimisation, all of the last step
    step(
        "gauge",
        "wfr_gradient_norm",
        "",
        "learner/grad_norm",
        "Norm of the gradient before clipping.",
    ),
    step("gauge", "wfr_entropy_nats", "nats", "entropy", "Mean entropy per policy token."),
    step(
        "gauge",
        "wfr_importance_ratio",
        "ratio",
        {"mean": "ratio", "min": "ratio_min", "max": "ratio_max"},
        "Importance ratio per unit of the objective, before clipping.",
        label="statistic",
    ),
    step(
        "gauge",
        "wfr_clipped_units_ratio",
        "ratio",
        {side: f"clip_fraction_{side}" for side in ("low", "high", "dual")},
        "Share of units whose ratio was clipped, by bound.",
        label="bound",
    ),
    step(
        "gauge",
        "wfr_kl_nats",
        "nats",
        {policy: f"kl_{policy}" for policy in ("proximal", "behaviour", "reference")},
        "KL divergence per policy token from another policy (k3 estimator).",
        label="policy",
    ),
    step(
        "gauge",
        "wfr_correction_weight",
        "",
        {"mean": "correction", "min": "correction_min", "max": "correction_max"},
        "Weight of a stale behaviour policy per unit, before it is bounded.",
        label="statistic",
    ),
    step(
        "gauge",
        "wfr_bounded_corrections_ratio",
        "ratio",
        "correction_fraction",
        "Share of units whose correction weight was truncated or masked.",
    ),
    step(
        "gauge",
        "wfr_staleness_weight",
        "",
        {"stale": "w_stale", "mismatch": "w_mismatch"},
        "Factors of the weight of a stale behaviour policy, mean per unit, measured on a sample: "
        "older weights in one engine, and the same weights in two engines.",
        label="factor",
    ),
    step(
        "gauge",
        "wfr_engine_mismatch_weight",
        "",
        {bucket: f"w_mismatch/lag_{bucket}" for bucket in LAG_BUCKETS},
        "The factor of two engines by the lag of the turn; far from 1 at every lag, 0 too, it is a "
        "fault of an engine.",
        label="lag",
    ),
    step(
        "gauge",
        "wfr_effective_sample_size_ratio",
        "ratio",
        {"ratio": "ratio_ess", "correction": "correction_ess"},
        "Effective sample size of a weight as a share of the units: 1 where all weigh the same.",
        label="weight",
    ),
    step(
        "gauge",
        "wfr_masked_tokens_ratio",
        "ratio",
        {"all": "masked_fraction", "rejected": "rejected_fraction"},
        "Share of policy tokens that did not count: all of them, and those of rejected units.",
        label="cause",
    ),
    step(
        "gauge",
        "wfr_importance_ratio_by_lag",
        "",
        {bucket: f"ratio/lag_{bucket}" for bucket in LAG_BUCKETS},
        "Mean importance ratio by the lag of the turn.",
        label="lag",
    ),
    step(
        "gauge",
        "wfr_correction_weight_by_lag",
        "",
        {bucket: f"correction/lag_{bucket}" for bucket in LAG_BUCKETS},
        "Mean weight of a stale behaviour policy by the lag of the turn: at lag 0 it shows how far "
        "sampler and learner differ with equal weights.",
        label="lag",
    ),
    step(
        "gauge",
        "wfr_clipped_units_ratio_by_lag",
        "",
        {bucket: f"clip_fraction_high/lag_{bucket}" for bucket in LAG_BUCKETS},
        "Share of units whose ratio was clipped from above, by the lag of the turn.",
        label="lag",
    ),
    step(
        "gauge",
        "wfr_masked_tokens_ratio_by_lag",
        "",
        {bucket: f"masked_fraction/lag_{bucket}" for bucket in LAG_BUCKETS},
        "Share of policy tokens that did not count, by the lag of the turn.",
        label="lag",
    ),
    step(
        "gauge",
        "wfr_reward_part",
        "",
        {part: f"reward/{part}" for part in REWARD_PARTS},
        "Mean of each part of the reward in the last batch.",
        label="part",
    ),
    step(
        "gauge",
        "wfr_format_faults_per_episode",
        "",
        "reward/format_faults",
        "Mean number of format faults of an episode in the last batch.",
    ),
    step(
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
)
