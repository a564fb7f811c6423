"""Dashboards as Grafana imports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.monitoring.panel import Dashboard, Panel, Query

SCHEMA_VERSION = 39
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_HEIGHT = 8
_COLUMNS = 24


def dashboard(content: Dashboard) -> dict[str, Any]:
    """The JSON model of a dashboard: choose a Prometheus and a run at its top."""
    return {
        "uid": content.uid,
        "title": content.title,
        "tags": ["wfr"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), _run()]},
        "links": [{"type": "dashboards", "tags": ["wfr"], "title": "WFR", "asDropdown": True}],
        "annotations": {"list": []},
        "panels": list(_panels(content)),
    }


def expression(query: Query, *, run: str = "$run", window: str = "$__rate_interval") -> str:
    """The PromQL of a query for a run; a rate takes in a window of time."""
    return query.expr.replace("$run", run).replace("$window", window)


def _panels(content: Dashboard) -> Iterator[dict[str, Any]]:
    x = y = 0
    for number, panel in enumerate(content.panels, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}
        x += panel.width
        yield _panel(number, panel, place)


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": expression(query),
            "legendFormat": query.legend,
        }
        for index, query in enumerate(panel.queries)
    ]
    custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": True}
    if panel.stacked:
        custom |= {"stacking": {"mode": "normal"}, "fillOpacity": 40}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                **({"custom": custom} if panel.kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
        if panel.kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _run() -> dict[str, Any]:
    values = "label_values(wfr_optimizer_steps_total, run)"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": values, "refId": "run"},
        "definition": values,
        "refresh": 2,
        "sort": 2,
    }
