"""What a hub's status looks like in a record, for `metrics.jsonl`, Prometheus and people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wfr.backends.usage import UsageTable, read_row


def executor_record(status: Mapping[str, Any]) -> dict[str, Any]:
    """Cumulative numbers of a run; nothing where no operator was asked yet.

    Keys: `executor/calls` by operator, `executor/requests`, `executor/failed`, `executor/tokens`,
    `executor/usd` and `executor/seconds` by backend, `executor/source_usd` by task source,
    `executor/hits`, `executor/shared`, `executor/saved_usd`, `executor/set_aside`,
    `executor/hedges`, `executor/down` (1 where a circuit is not closed) and `executor/openings` by
    backend.
    """
    table = UsageTable(map(read_row, status["usage"]))
    if not len(table):
        return {}
    total, backends = table.total(), table.by("backend")
    return {
        "executor/calls": {name: usage.calls for name, usage in table.by("operator").items()},
        **{
            f"executor/{field}": {name: getattr(u, field) for name, u in backends.items()}
            for field in ("requests", "failed", "tokens", "usd", "seconds")
        },
        "executor/source_usd": {name: u.usd for name, u in table.by("source").items()},
        **{
            f"executor/{field}": getattr(total, field)
            for field in ("hits", "shared", "saved_usd", "set_aside", "hedges")
        },
        "executor/hit_ratio": (total.hits + total.shared) / total.calls if total.calls else 0.0,
        "executor/down": {
            name: int(state["circuit"] != "closed") for name, state in status["backends"].items()
        },
        "executor/openings": {
            name: state["openings"] for name, state in status["backends"].items()
        },
    }


def paused_backends(status: Mapping[str, Any]) -> list[str]:
    """Sentences for people about backends that are down."""
    return [
        f"executor {name} is down for {state['down_s']:.0f} s; {state['waiting']} calls wait"
        for name, state in status["backends"].items()
        if state["circuit"] != "closed"
    ]
