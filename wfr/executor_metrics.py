"""Metrics of the executors, since the beginning of the run."""

from __future__ import annotations

import functools

from wfr.metric import Metric, of

executor = functools.partial(of, "executor")

EXECUTORS: tuple[Metric, ...] = (
    # executors, since the beginning of the run
    executor(
        "counter",
        "wfr_executor_calls_total",
        "calls",
        "executor/calls",
        "Calls of operators that an executor carries out.",
        label="operator",
    ),
    executor(
        "counter",
        "wfr_executor_requests_total",
        "requests",
        "executor/requests",
        "Requests sent to a backend, every attempt and hedge counted.",
        label="backend",
    ),
    executor(
        "counter",
        "wfr_executor_failed_requests_total",
        "requests",
        "executor/failed",
        "Requests that brought no proper reply.",
        label="backend",
    ),
    executor(
        "counter",
        "wfr_executor_tokens_total",
        "tokens",
        "executor/tokens",
        "Prompt and completion tokens that a backend was paid for.",
        label="backend",
    ),
    executor(
        "counter",
        "wfr_executor_cost_usd_total",
        "usd",
        "executor/usd",
        "US dollars spent, by the configured prices.",
        label="backend",
    ),
    executor(
        "counter",
        "wfr_executor_source_cost_usd_total",
        "usd",
        "executor/source_usd",
        "US dollars spent, by task source.",
        label="source",
    ),
    executor(
        "counter",
        "wfr_executor_busy_seconds_total",
        "seconds",
        "executor/seconds",
        "Time from call to answer, summed over calls that ran side by side.",
        label="backend",
    ),
    executor(
        "counter",
        "wfr_executor_saved_calls_total",
        "calls",
        {"cache": "executor/hits", "in_flight": "executor/shared"},
        "Calls that the cache, or an identical call under way, answered.",
        label="by",
    ),
    executor(
        "gauge",
        "wfr_executor_saved_ratio",
        "ratio",
        "executor/hit_ratio",
        "Share of all calls that the cache, or an identical call under way, answered.",
    ),
    executor(
        "counter",
        "wfr_executor_saved_usd_total",
        "usd",
        "executor/saved_usd",
        "US dollars that those calls would have cost.",
    ),
    executor(
        "counter",
        "wfr_executor_set_aside_calls_total",
        "calls",
        "executor/set_aside",
        "Calls that no attempt could answer; their episodes were not scored.",
    ),
    executor(
        "counter",
        "wfr_executor_hedged_requests_total",
        "requests",
        "executor/hedges",
        "Requests sent beside a slow one.",
    ),
    executor(
        "gauge",
        "wfr_executor_down",
        "",
        "executor/down",
        "Whether a backend counts as down, and workers wait for it (1) or not (0).",
        label="backend",
    ),
    executor(
        "counter",
        "wfr_executor_circuit_openings_total",
        "openings",
        "executor/openings",
        "How often a backend went down.",
        label="backend",
    ),
)
