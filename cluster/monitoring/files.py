"""Every file that is generated, by its path below `generated/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from cluster.monitoring.alerts import rule_tests, rules
from cluster.monitoring.dashboards import DASHBOARDS
from cluster.monitoring.grafana import dashboard

_RAY_TARGETS = "/tmp/ray/prom_metrics_service_discovery.json"


def files() -> Mapping[str, str]:
    """Content by path."""
    return {
        "prometheus.yml": _yaml(_prometheus()),
        "rules.yml": _yaml(rules()),
        "rules_test.yml": rule_tests("rules.yml"),
        "docker-compose.yml": _yaml(_compose()),
        "grafana/provisioning/datasources/prometheus.yml": _yaml(_datasource()),
        "grafana/provisioning/dashboards/wfr.yml": _yaml(_provider()),
        **{
            f"grafana/dashboards/{each.uid}.json": json.dumps(dashboard(each), indent=2) + "\n"
            for each in DASHBOARDS
        },
    }


def _prometheus() -> dict[str, Any]:
    """Runs are found by the files that they write, Ray and vLLM by the one that Ray writes."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "wfr",
                "file_sd_configs": [
                    {"files": ["/runs/.prometheus/*.json"], "refresh_interval": "15s"}
                ],
            },
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [_RAY_TARGETS], "refresh_interval": "15s"}],
            },
        ],
    }


def _compose() -> dict[str, Any]:
    return {
        "services": {
            "prometheus": {
                "image": "prom/prometheus:v3.5.0",
                "network_mode": "host",
                "volumes": [
                    "./prometheus.yml:/etc/prometheus/prometheus.yml:ro",
                    "./rules.yml:/etc/prometheus/rules.yml:ro",
                    "${WFR_RUNS:?the directory that holds the runs}:/runs:ro",
                    f"/tmp/ray:{_RAY_TARGETS.rpartition('/')[0]}:ro",
                ],
                "command": [
                    "--config.file=/etc/prometheus/prometheus.yml",
                    "--web.listen-address=127.0.0.1:9090",
                ],
            },
            "grafana": {
                "image": "grafana/grafana:12.1.0",
                "network_mode": "host",
                "environment": {
                    "GF_SERVER_HTTP_ADDR": "127.0.0.1",
                    "GF_SECURITY_ADMIN_PASSWORD": "${GRAFANA_PASSWORD:?choose one}",
                },
                "volumes": [
                    "./grafana/provisioning:/etc/grafana/provisioning:ro",
                    "./grafana/dashboards:/var/lib/grafana/dashboards:ro",
                ],
            },
        }
    }


def _datasource() -> dict[str, Any]:
    source = {
        "name": "Prometheus",
        "uid": "prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": "http://127.0.0.1:9090",
        "isDefault": True,
    }
    return {"apiVersion": 1, "datasources": [source]}


def _provider() -> dict[str, Any]:
    provider = {
        "name": "wfr",
        "type": "file",
        "folder": "WFR",
        "options": {"path": "/var/lib/grafana/dashboards"},
    }
    return {"apiVersion": 1, "providers": [provider]}


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=100)
