"""Prometheus' rules and Grafana's dashboards: what is committed, what it means, what it finds."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from test_exporter import ANY_PORT, prometheus, query, until

from cluster.exporter import exporter
from cluster.monitoring.__main__ import GENERATED
from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.dashboards import DASHBOARDS
from cluster.monitoring.files import files
from cluster.monitoring.grafana import dashboard, expression
from wfr.metric_declarations import METRICS
from wfr.metrics import RunMetrics

RECORDS = Path(__file__).parent / "data" / "metrics.jsonl.gz"
QUERIES = [
    pytest.param(query, id=f"{board.uid}: {panel.title}, {query.legend}")
    for board in DASHBOARDS
    for panel in board.panels
    for query in panel.queries
]
DECLARED = {metric.name for metric in METRICS}


def test_what_is_committed_is_what_the_source_says():
    """`python -m cluster.monitoring` writes it."""
    found = {
        str(path.relative_to(GENERATED)): path.read_text(encoding="utf-8")
        for path in GENERATED.rglob("*")
        if path.is_file()
    }
    assert found == dict(files())


def _metrics_in(expr):
    names = set(re.findall(r"\bwfr_[a-z_]+", expr))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_asks_for_metrics_that_are_declared(query):
    assert _metrics_in(query.expr) <= DECLARED
    assert expression(query).count("(") == expression(query).count(")")
    assert "ray_" in query.expr or 'run="$run"' in query.expr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_asks_for_metrics_that_are_declared_and_is_documented(alert):
    assert _metrics_in(alert.expr) <= DECLARED
    assert alert.fires < alert.ends
    page = Path(__file__).parents[1] / "docs" / "monitoring.md"
    assert f"### {alert.name}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.uid)
def test_dashboards_can_be_imported(board):
    model = dashboard(board)
    panels = model["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
        assert len(panel["description"]) > 20
        assert panel["targets"]
    names = {variable["name"] for variable in model["templating"]["list"]}
    assert names == {"source", "run"}
    assert json.loads(json.dumps(model)) == model
    assert len({each.uid for each in DASHBOARDS}) == len(DASHBOARDS)


def _promtool(*arguments, ok=True):
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is ok, done.stdout + done.stderr


def test_promtool_takes_configuration_and_rules(require):
    require("prometheus")
    _promtool("check", "config", GENERATED / "prometheus.yml")
    _promtool("check", "rules", GENERATED / "rules.yml")


@pytest.mark.engine
def test_every_alert_fires_and_ends(require):
    require("prometheus")
    _promtool("test", "rules", GENERATED / "rules_test.yml")
    tested = yaml.safe_load((GENERATED / "rules_test.yml").read_text())["tests"]
    assert [test["name"] for test in tested] == [alert.name for alert in ALERTS]


@pytest.mark.engine
def test_the_tests_of_alerts_can_fail(require, tmp_path):
    """An alert that never fires, and one that never ends, are found."""
    require("prometheus")
    for old, new in (("wfr_disk_full == 1", "wfr_disk_full == 2"), ("== 1", ">= 0")):
        rules = (GENERATED / "rules.yml").read_text()
        assert old in rules
        (tmp_path / "rules.yml").write_text(rules.replace(old, new))
        content = yaml.safe_load((GENERATED / "rules_test.yml").read_text())
        content["tests"] = [test for test in content["tests"] if test["name"] == "DiskFull"]
        (tmp_path / "rules_test.yml").write_text(yaml.safe_dump(content))
        _promtool("test", "rules", tmp_path / "rules_test.yml", ok=False)


@pytest.mark.engine
def test_a_real_prometheus_finds_what_every_panel_and_alert_asks_for(require, tmp_path):
    """Fed with the records of a real run, as its driver would feed it."""
    require("prometheus")
    with gzip.open(RECORDS, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    limits = {"buffer/max_lag": 4, "train/steps": 40, "executor/budget_usd": None}
    registry = CollectorRegistry()
    metrics = RunMetrics(registry)
    with exporter(ANY_PORT, registry) as address, prometheus(tmp_path, "demo", address) as url:
        metrics.observe({"kind": "run", **limits})
        metrics.observe({"kind": "disk", "disk/full": 0})
        for record in records:
            metrics.observe(record)
            if record["kind"] == "step":
                wanted = f'wfr_optimizer_steps_total{{run="demo"}} == {record["step"]}'
                until(lambda wanted=wanted: query(url, wanted))
        missing, unexpected = [], []
        for param in QUERIES:
            (each,) = param.values
            wanted = expression(each, run="demo", window="60s")
            # A scrape that takes too long makes every series stale for a moment.
            found = query(url, wanted) or (not each.absent and _soon(url, wanted))
            if not found and not each.absent:
                missing.append(param.id)
            if found and each.absent and "ray_" not in each.expr:
                unexpected.append(param.id)
        assert missing == []
        assert unexpected == []  # declared as absent from such a run, and there all the same
        fed = {m.name for m in METRICS} - _unfed(url)
        for alert in ALERTS:
            assert _metrics_in(alert.expr) - fed <= _ABSENT, alert.name


def _soon(url, expr, deadline_s=20):
    try:
        return until(lambda: query(url, expr), deadline_s)
    except AssertionError:
        return []


_ABSENT = {
    "wfr_refused_groups_total",  # no group was refused
    "wfr_executor_down",  # the embedded executor cannot be down
    "wfr_executor_cost_usd_total",  # nor does it cost anything
    "wfr_executor_budget_usd",
    "wfr_discarded_tokens_total",  # nothing was discarded
}


def _unfed(url):
    """Declared metrics of which Prometheus has no series."""
    names = {series["metric"]["__name__"] for series in query(url, '{__name__=~"wfr_.*"}')}
    have = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in names} | names
    return {metric.name for metric in METRICS} - have
