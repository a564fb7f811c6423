"""The preflight's question about executors: keys and servers, before anything expensive."""

from __future__ import annotations

import pytest

from cluster.preflight.executors import executor_check
from wfr.config import parse_config


def check(**main):
    main = {"kind": "openai_compatible", "model": "m", "base_url": "http://127.0.0.1:9/v1", **main}
    values = {"backend": "main", "backends": {"main": main}}
    return executor_check(parse_config({"executor": values}))


def test_the_embedded_executor_is_always_there():
    assert executor_check(parse_config({})).ok


def test_an_absent_key_is_found_before_the_run(monkeypatch):
    monkeypatch.delenv("ABSENT_KEY", raising=False)
    found = check(api_key_env="ABSENT_KEY")
    assert not found.ok
    assert "ABSENT_KEY" in found.detail
    assert found.remedy


def test_a_server_that_is_not_there_is_found_before_the_run(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = check()
    assert not found.ok
    assert "main: no reply" in found.detail


def test_on_a_cluster_servers_are_not_asked_from_here(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert check().ok


@pytest.mark.parametrize("executor", [{"serve": {"model": "somewhere"}}])
def test_a_model_that_the_run_will_serve_is_not_asked(executor):
    assert executor_check(parse_config({"executor": executor})).ok
