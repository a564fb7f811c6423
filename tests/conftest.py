"""Shared by every test file: the environment, system packages, what a test may leave behind."""

from __future__ import annotations

import os
import shutil
import sys

import psutil
import pytest
from hypothesis import HealthCheck, settings

ENGINES = frozenset({"ray", "vllm", "deepspeed"})

# Before torch or numpy is imported: one thread per process, and no process asks the network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

# A loaded machine is slow, which is no fault of a property.
settings.register_profile("wfr", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wfr")

_PROGRAMS = {"bubblewrap": "bwrap", "prometheus": "prometheus", "chromium": "chromium"}


@pytest.fixture(scope="session")
def require():
    """`require("bubblewrap")` skips the test, with the reason, where the package is absent."""
    return _require


def _require(package: str) -> None:
    program = _PROGRAMS[package]
    if not shutil.which(program):
        pytest.skip(f"needs the system package {package} (no {program!r} on the path)")


@pytest.fixture(scope="session")
def director(tmp_path_factory):
    """A tiny director that knows nothing."""
    from learner.tiny import build_model, build_tokenizer
    from wfr.config import TinyModelConfig

    path = tmp_path_factory.mktemp("director")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path)
    build_model(TinyModelConfig(), len(tokenizer), 1).save_pretrained(path)
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With WFR_REQUIRE_SYSTEM_PACKAGES=1, a skip whose reason names such a package is a failure."""
    report = yield
    required = os.environ.get("WFR_REQUIRE_SYSTEM_PACKAGES") == "1"
    if required and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value)
        if any(package in reason for package in _PROGRAMS):
            report.outcome, report.longrepr = "failed", f"skipped, but required: {reason}"
    return report


@pytest.fixture(autouse=True)
def _only_engine_tests_import_engines(request):
    """Fail a test without the `engine` mark that imports ray, vllm or deepspeed."""
    before = ENGINES & sys.modules.keys()
    yield
    imported = (ENGINES & sys.modules.keys()) - before
    if imported and not request.node.get_closest_marker("engine"):
        pytest.fail(f"imports {sorted(imported)}: mark the test `engine` or import less")


@pytest.fixture(autouse=True, scope="module")
def _no_process_left_behind():
    """Fail a test file that leaves child processes running; its own fixtures end before this."""
    before = set(_children())
    yield
    started = [child for child in _children() if child not in before]
    _, alive = psutil.wait_procs(started, timeout=20)
    if alive:
        pytest.fail("left running: " + "; ".join(_describe(child) for child in alive))


def _children() -> list[psutil.Process]:
    return [c for c in psutil.Process().children(recursive=True) if not _is_tracker(c)]


def _is_tracker(process: psutil.Process) -> bool:
    # multiprocessing keeps one tracker of shared memory for the life of the interpreter.
    return "multiprocessing.resource_tracker" in _describe(process)


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{process.pid} (ended)"
