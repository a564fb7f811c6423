"""The exporter, scraped over HTTP and by a real Prometheus."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cluster.exporter import announce, exporter
from cluster.ports import free_port
from wfr.config import ConfigError, MetricsConfig
from wfr.metrics import RunMetrics

STEP = {"kind": "step", "step": 3, "version": 3, "tokens/discarded": {"late": 7}}
ANY_PORT = MetricsConfig(port=0)


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    RunMetrics(registry).observe(STEP)
    return registry


def get(url):
    # Loopback must not go through a proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return answer.read().decode()


def scrape(address):
    families = text_string_to_metric_families(get(f"http://{address}/metrics"))
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_metrics_are_served_over_http(registry):
    with exporter(ANY_PORT, registry) as address:
        assert address.startswith("127.0.0.1:")
        samples = scrape(address)
    assert samples["wfr_optimizer_steps_total"] == 3
    assert samples["wfr_discarded_tokens_total"] == 7


def test_a_scrape_sees_what_came_since_the_last(registry):
    other = CollectorRegistry()
    metrics = RunMetrics(other)
    with exporter(ANY_PORT, other) as address:
        assert scrape(address)["wfr_optimizer_steps_total"] == 0
        metrics.observe(STEP)
        assert scrape(address)["wfr_optimizer_steps_total"] == 3


def test_nothing_listens_afterwards(registry):
    port = free_port()
    for _ in range(2):
        with exporter(MetricsConfig(port=port), registry) as address:
            assert address == f"127.0.0.1:{port}"
    with pytest.raises(urllib.error.URLError):
        scrape(address)


def test_it_ends_with_the_run_that_fails(registry):
    with pytest.raises(RuntimeError, match="the run"), exporter(ANY_PORT, registry) as address:
        raise RuntimeError("the run")
    with pytest.raises(urllib.error.URLError):
        scrape(address)


def test_no_port_no_exporter(registry):
    with exporter(MetricsConfig(), registry) as address:
        assert address is None


def test_a_taken_port_is_named(registry):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"metrics\.port={port} .*in use.* another port"),
            exporter(MetricsConfig(port=port), registry),
        ):
            pass


def test_an_address_of_another_machine_is_named(registry):
    config = MetricsConfig(port=0, host="192.0.2.1")
    with (
        pytest.raises(ConfigError, match=r"metrics\.host='192\.0\.2\.1'"),
        exporter(config, registry),
    ):
        pass


@contextlib.contextmanager
def prometheus(directory, run, address):
    """A Prometheus that scrapes `address`, found through the file that a run writes; its URL."""
    announced = announce(directory / run, address)
    job = {
        "job_name": "wfr",
        "scrape_interval": "200ms",
        "scrape_timeout": "200ms",
        "file_sd_configs": [{"files": [str(announced.parent / "*.json")]}],
    }
    (directory / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))
    listen = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={listen}",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://{listen}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def query(url, expression):
    """The result of an instant query; empty while Prometheus starts."""
    parameters = urllib.parse.urlencode({"query": expression})
    try:
        answer = json.loads(get(f"{url}/api/v1/query?{parameters}"))
    except OSError:
        return []
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def until(read, deadline_s=60):
    end = time.monotonic() + deadline_s
    while not (value := read()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)
    return value


@pytest.mark.engine
def test_a_real_prometheus_scrapes_a_run(require, registry, tmp_path):
    require("prometheus")
    with exporter(ANY_PORT, registry) as address, prometheus(tmp_path, "demo", address) as url:
        (series,) = until(lambda: query(url, 'wfr_discarded_tokens_total{run="demo"}'))
        assert series["metric"]["reason"] == "late"
        assert series["metric"]["instance"] == address
        assert series["value"][1] == "7"
        (up,) = query(url, "up")
        assert up["value"][1] == "1"
        (described,) = json.loads(get(f"{url}/api/v1/metadata"))["data"]["wfr_discarded_tokens"]
        assert (described["type"], described["unit"]) == ("counter", "tokens")
