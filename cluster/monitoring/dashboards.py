"""The dashboards: overview, learning, staleness, operators and cost, cluster."""

from __future__ import annotations

from cluster.monitoring.panel import Dashboard, Panel, Query

_RULE_BASED = "the embedded executor has no requests, prices or failures"
_NO_LOSS = "nothing has died"
_NOTHING_DISCARDED = "nothing has been discarded yet"


def _rate(metric: str, by: str = "") -> str:
    total = f'rate({metric}{{run="$run"}}[$window])'
    return f"sum by ({by}) ({total})" if by else f"sum({total})"


def _shares(counter: str) -> str:
    """Share of each phase in the growth of a counter; they add up to 1."""
    grown = _rate(counter, "phase")
    return f"{grown} / ignoring(phase) group_left () ({_rate(counter)} > 0)"


def _now(metric: str) -> str:
    return f'{metric}{{run="$run"}}'


def _mean(histogram: str) -> str:
    """Mean observation of a histogram over the window; nothing where nothing was observed."""
    return f"{_rate(f'{histogram}_sum')} / ({_rate(f'{histogram}_count')} > 0)"


def _quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', 'le')})"


_SCORES = Panel(
    "Held-out score",
    "Share of held-out tasks answered right. The one curve that says whether the run is worth its "
    "money; flat from the start: look at the reward and at the share of equal groups.",
    (Query(_now("wfr_eval_exact_match_ratio"), "held out"),),
    unit="percentunit",
)
_REWARD = Panel(
    "Reward of the batches",
    "Mean reward of the groups that were trained on, and the share of right answers among them.",
    (
        Query(_now("wfr_train_reward"), "reward"),
        Query(_now("wfr_train_exact_match_ratio"), "right answers"),
    ),
)
_THROUGHPUT = Panel(
    "Tokens per second",
    "Policy tokens sampled and trained on. Sampled far above trained on: the learner is the "
    "bottleneck, or much is discarded.",
    (
        Query(_rate("wfr_generated_tokens_total"), "sampled"),
        Query(_rate("wfr_consumed_tokens_total"), "trained on"),
    ),
)
_SHARES = Panel(
    "What the training loop does",
    "Shares of its time, which add up to 1. Groups: it waits for a full batch, so samplers or "
    "operators are slow; train: the learner is; publish: it waits for a publication that did not "
    "fit beside a step; other: checkpoints, evaluations, its own work.",
    (Query(_shares("wfr_training_loop_seconds_total"), "{{phase}}"),),
    unit="percentunit",
    stacked=True,
)
_EPISODES = Panel(
    "What the episodes wait for",
    "Shares of the time of all episodes, which add up to 1. Slot: the learner is behind; sampler: "
    "add samplers; operator: look at the executors; own: the workers' own computing.",
    (Query(_shares("wfr_worker_seconds_total"), "{{phase}}"),),
    unit="percentunit",
    stacked=True,
)
_LAG = Panel(
    "Lag of the groups",
    "Optimizer steps between a group's oldest token and its training. At the bound for long: more "
    "learner, fewer samplers, or a smaller max_lag.",
    (
        Query(_quantile(0.5, "wfr_group_lag_steps"), "median"),
        Query(_quantile(0.95, "wfr_group_lag_steps"), "95 %"),
        Query(_now("wfr_max_lag_steps"), "bound"),
    ),
)
_DISCARDED = Panel(
    "Discarded tokens",
    "Share of the sampled tokens that were thrown away, by reason.",
    (
        Query(
            f"{_rate('wfr_discarded_tokens_total', 'reason')} / ignoring(reason) group_left "
            f"{_rate('wfr_generated_tokens_total')}",
            "{{reason}}",
            absent=_NOTHING_DISCARDED,
        ),
    ),
    unit="percentunit",
    stacked=True,
)
_LOSSES = Panel(
    "Restarts",
    "Samplers, rollout workers and learners that died and were replaced, since the run began.",
    (
        Query(_now("wfr_sampler_losses_total"), "samplers"),
        Query(_now("wfr_worker_restarts_total"), "workers"),
        Query(_now("wfr_learner_restarts_total"), "learner"),
    ),
)

_SUPERVISION = Panel(
    "What supervision did",
    "Processes that did not answer and were ended, times that no step was taken for long, and "
    "machines that were closed because too much was lost on them. A stall: the run's notes name "
    "who waits for whom.",
    (
        Query(
            _now("wfr_silent_processes_total"),
            "silent {{role}}",
            absent="every process answered in time",
        ),
        Query(_now("wfr_stalls_total"), "stalls"),
        Query(_now("wfr_quarantines_total"), "closed machines"),
    ),
)

_ENDS = Panel(
    "How episodes end",
    "Episodes per second by stop reason. Much out_of_turns or out_of_tokens: the director does not "
    "come to an answer; much backend_failed or sandbox_unavailable: the world fails it.",
    (Query(_rate("wfr_episodes_total", "stop_reason"), "{{stop_reason}}"),),
    stacked=True,
)

OVERVIEW = Dashboard(
    "wfr-overview",
    "WFR / Overview",
    (
        Panel(
            "Steps",
            "Optimizer steps that are published, of those that the run is to take.",
            (
                Query(_now("wfr_optimizer_steps_total"), "published"),
                Query(_now("wfr_target_steps"), "planned"),
            ),
            kind="stat",
        ),
        Panel(
            "Since the last step",
            "Above a few step times: something waits. The share of times says who for whom.",
            (Query(f"time() - {_now('wfr_last_step_timestamp_seconds')}", "since"),),
            unit="s",
            kind="stat",
        ),
        Panel(
            "Spent on executors",
            "US dollars by the configured prices, since the run began.",
            (Query(f"sum({_now('wfr_executor_cost_usd_total')})", "spent", absent=_RULE_BASED),),
            unit="currencyUSD",
            kind="stat",
        ),
        _SCORES,
        _REWARD,
        _THROUGHPUT,
        _SHARES,
        _EPISODES,
        _LAG,
        _DISCARDED,
    ),
)

LEARNING = Dashboard(
    "wfr-learning",
    "WFR / Learning",
    (
        _SCORES,
        Panel(
            "Held-out score by skill",
            "Which kinds of tasks are learnt, and which are forgotten.",
            (Query(_now("wfr_eval_skill_exact_match_ratio"), "{{skill}}"),),
            unit="percentunit",
        ),
        _REWARD,
        Panel(
            "Parts of the reward",
            "Their means, which add up to the reward. A format part that stays below 0: the "
            "director has not learnt the protocol yet.",
            (Query(_now("wfr_reward_part"), "{{part}}"),),
        ),
        _ENDS,
        Panel(
            "Turns by kind",
            "Turns per second. Malformed ones that do not fade: look at them in the inspector.",
            (Query(_rate("wfr_turns_total", "kind"), "{{kind}}"),),
            stacked=True,
        ),
        Panel(
            "Entropy",
            "Per policy token, in nats. Towards 0: the policy has stopped exploring. Rising "
            "without end: it falls apart; lower the learning rate or the lag.",
            (Query(_now("wfr_entropy_nats"), "entropy"),),
        ),
        Panel(
            "Gradient norm",
            "Before clipping. Spikes that coincide with a fall of the reward: lower the rate.",
            (Query(_now("wfr_gradient_norm"), "norm"),),
        ),
        Panel(
            "Importance ratio",
            "Of the current to the proximal or behaviour policy, per unit of the objective.",
            (Query(_now("wfr_importance_ratio"), "{{statistic}}"),),
        ),
        Panel(
            "Clipped units",
            "Share of units whose ratio was clipped. Above a third: steps are too large, or data "
            "too stale, for the clip range.",
            (Query(_now("wfr_clipped_units_ratio"), "{{bound}}"),),
            unit="percentunit",
        ),
        Panel(
            "KL divergence",
            "From the behaviour, proximal and reference policies, in nats per token (k3).",
            (Query(_now("wfr_kl_nats"), "{{policy}}"),),
        ),
        Panel(
            "Groups without a signal",
            "Share of groups whose rewards were all equal: they teach nothing. High from the "
            "start: tasks too hard; high at the end: too easy.",
            (Query(_now("wfr_zero_variance_groups_ratio"), "equal rewards"),),
            unit="percentunit",
        ),
    ),
)

STALENESS = Dashboard(
    "wfr-staleness",
    "WFR / Staleness",
    (
        _LAG,
        Panel(
            "Where the lag of turns arises",
            "Mean lag of the turns, split: updates while they were sampled, while operators ran, "
            "and while their group waited. Queue: a smaller max_lag; environment: faster "
            "operators; sampling: shorter turns or more samplers.",
            (
                Query(_mean("wfr_turn_sampling_lag_steps"), "sampling"),
                Query(_mean("wfr_turn_environment_lag_steps"), "environment"),
                Query(_mean("wfr_turn_queue_lag_steps"), "queue"),
            ),
            stacked=True,
        ),
        Panel(
            "Lag of the turns",
            "Optimizer steps between a turn's oldest token and its training.",
            (
                Query(_quantile(0.5, "wfr_turn_lag_steps"), "median"),
                Query(_quantile(0.95, "wfr_turn_lag_steps"), "95 %"),
            ),
        ),
        Panel(
            "Age of the KV cache",
            "Versions between the weights of a turn's first and last token; with keep_kv so old "
            "are the oldest entries that it read.",
            (Query(_mean("wfr_turn_kv_age_steps"), "mean"),),
        ),
        Panel(
            "Importance ratio by lag",
            "Mean ratio of turns by their lag: how much older data disagrees with the policy.",
            (Query(_now("wfr_importance_ratio_by_lag"), "lag {{lag}}"),),
        ),
        Panel(
            "Correction weight by lag",
            "Mean weight of the behaviour policy. At lag 0 it shows how far sampler and learner "
            "differ with equal weights: far from 1 there is a fault of an engine.",
            (Query(_now("wfr_correction_weight_by_lag"), "lag {{lag}}"),),
        ),
        Panel(
            "Two factors of staleness",
            "Older weights in one engine, and the same weights in two engines, on a sample.",
            (
                Query(
                    _now("wfr_staleness_weight"),
                    "{{factor}}",
                    absent="learner.snapshots.mib is 0",
                ),
            ),
        ),
        Panel(
            "Effective sample size",
            "Of a weight, as a share of the units: 1 where all weigh the same.",
            (Query(_now("wfr_effective_sample_size_ratio"), "{{weight}}"),),
            unit="percentunit",
        ),
        Panel(
            "Clipped units by lag",
            "Share of units clipped from above, by the lag of the turn. It should rise with the "
            "lag; at lag 0 it is the size of the steps alone.",
            (Query(_now("wfr_clipped_units_ratio_by_lag"), "lag {{lag}}"),),
            unit="percentunit",
        ),
        Panel(
            "Masked tokens",
            "Share of policy tokens that did not count, by cause.",
            (Query(_now("wfr_masked_tokens_ratio"), "{{cause}}"),),
            unit="percentunit",
        ),
        Panel(
            "Slots of the buffer",
            "Groups by their state. All in flight: the learner starves; all finished: it is slow.",
            (Query(_now("wfr_buffer_slots"), "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Waiting tokens",
            "Policy tokens of groups that are finished or taken, and not yet trained on.",
            (Query(_now("wfr_waiting_tokens"), "tokens"),),
        ),
        _DISCARDED,
    ),
)

OPERATORS = Dashboard(
    "wfr-operators",
    "WFR / Operators and cost",
    (
        Panel(
            "Operator calls",
            "Calls per second that an executor carries out, by operator.",
            (Query(_rate("wfr_executor_calls_total", "operator"), "{{operator}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Seconds of an operator call",
            "What 95 % of the calls of each operator stay below, without what a cache answered.",
            (
                Query(
                    "histogram_quantile(0.95, "
                    + _rate("wfr_operator_call_seconds_bucket", "operator, le")
                    + ")",
                    "{{operator}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Programs in the sandbox",
            "Per second, by how they ended.",
            (Query(_rate("wfr_sandbox_programs_total", "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Requests and failures",
            "Requests per second sent to each backend, every attempt counted, and those that "
            "brought no proper reply.",
            (
                Query(_rate("wfr_executor_requests_total", "backend"), "{{backend}}"),
                Query(
                    _rate("wfr_executor_failed_requests_total", "backend"),
                    "{{backend}} failed",
                    absent=_RULE_BASED,
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Seconds per call",
            "From call to answer, waiting for a place included, mean by backend.",
            (
                Query(
                    f"{_rate('wfr_executor_busy_seconds_total', 'backend')} / "
                    f"({_rate('wfr_executor_requests_total', 'backend')} > 0)",
                    "{{backend}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Cost per hour",
            "US dollars, by backend.",
            (
                Query(
                    f"3600 * {_rate('wfr_executor_cost_usd_total', 'backend')}",
                    "{{backend}}",
                    absent=_RULE_BASED,
                ),
            ),
            unit="currencyUSD",
        ),
        Panel(
            "Tokens paid for",
            "Prompt and completion tokens per second, by backend.",
            (
                Query(
                    _rate("wfr_executor_tokens_total", "backend"), "{{backend}}", absent=_RULE_BASED
                ),
            ),
        ),
        Panel(
            "Saved calls",
            "Share of calls that the cache, or an identical call under way, answered.",
            (Query(_now("wfr_executor_saved_ratio"), "saved"),),
            unit="percentunit",
        ),
        Panel(
            "Backends that are down",
            "1 while a backend counts as down and workers wait for it.",
            (Query(_now("wfr_executor_down"), "{{backend}}", absent=_RULE_BASED),),
        ),
        Panel(
            "Calls set aside",
            "Calls that no attempt could answer; their episodes were played again, never scored.",
            (Query(_now("wfr_executor_set_aside_calls_total"), "set aside"),),
        ),
    ),
)

CLUSTER = Dashboard(
    "wfr-cluster",
    "WFR / Cluster",
    (
        _THROUGHPUT,
        _SHARES,
        _EPISODES,
        Panel(
            "Learner step",
            "Seconds of one step, all minibatches.",
            (
                Query(_mean("wfr_learner_step_seconds"), "mean"),
                Query(_quantile(0.95, "wfr_learner_step_seconds"), "95 %"),
            ),
            unit="s",
        ),
        Panel(
            "Phases of a learner step",
            "Seconds of the last step. Much proximal: `objective.proximal: behaviour` saves that "
            "pass; much read: large observations.",
            (Query(_now("wfr_learner_phase_seconds"), "{{phase}}"),),
            unit="s",
            stacked=True,
        ),
        Panel(
            "Publishing weights",
            "Seconds to bring a version into every sampler, replacements included.",
            (
                Query(_mean("wfr_publish_seconds"), "mean"),
                Query(_quantile(0.95, "wfr_publish_seconds"), "95 %"),
            ),
            unit="s",
        ),
        Panel(
            "Phases of a publication",
            "Seconds of the last one, in the slowest sampler. Much hold: turns that are finished "
            "first (`sampler.in_flight`); much receive: the network; much install: the engine.",
            (Query(_now("wfr_publish_phase_seconds"), "{{phase}}"),),
            unit="s",
            stacked=True,
        ),
        Panel(
            "Bytes of the buffer",
            "Columns of waiting groups in memory and on the disk.",
            (Query(_now("wfr_buffer_bytes"), "{{place}}"),),
            unit="bytes",
            stacked=True,
        ),
        _LOSSES,
        _SUPERVISION,
        Panel(
            "Nodes",
            "Nodes of the Ray cluster by their state; from Ray's own exporter.",
            (Query("sum by (State) (ray_gcs_actors_count)", "{{State}}", absent="Ray's exporter"),),
        ),
        Panel(
            "Processors",
            "Use of each node's processors; from Ray's own exporter.",
            (Query("ray_node_cpu_utilization", "{{instance}}", absent="Ray's exporter"),),
            unit="percent",
        ),
        Panel(
            "GPUs",
            "Use of each GPU; from Ray's own exporter.",
            (Query("ray_node_gpus_utilization", "{{instance}}", absent="Ray's exporter"),),
            unit="percent",
        ),
    ),
)

DASHBOARDS = (OVERVIEW, LEARNING, STALENESS, OPERATORS, CLUSTER)
