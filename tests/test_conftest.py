"""What conftest.py promises about every test, tried on small test files of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def outcome(tmp_path):
    """Run a test file beside our conftest.py; returns pytest's summary and report."""

    def _outcome(source: str, **environment: str) -> str:
        (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
        (tmp_path / "test_it.py").write_text("import pytest\n" + source)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    engine: as in setup.cfg\n")
        (tmp_path / "deepspeed.py").write_text("")
        clean = {k: v for k, v in os.environ.items() if k != "WFR_REQUIRE_SYSTEM_PACKAGES"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
            cwd=tmp_path,
            env=clean | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout

    return _outcome


def test_absent_package_skips_with_the_reason(outcome):
    printed = outcome("def test(require): require('prometheus')", PATH="")
    assert "1 skipped" in printed
    assert "needs the system package prometheus" in printed


@pytest.mark.parametrize(
    "source",
    [
        "def test(require): require('chromium')",
        "@pytest.mark.skipif(True, reason='no sandbox: install bubblewrap')\ndef test(): pass",
        "@pytest.fixture\ndef f(): pytest.skip('no bubblewrap')\ndef test(f): pass",
    ],
)
def test_absent_package_fails_where_it_is_required(outcome, source):
    printed = outcome(source, PATH="", WFR_REQUIRE_SYSTEM_PACKAGES="1")
    assert "skipped, but required" in printed
    assert "1 failed" in printed or "1 error" in printed


def test_other_skips_stay_skips(outcome):
    source = "def test(): pytest.skip('needs a GPU')"
    assert "1 skipped" in outcome(source, WFR_REQUIRE_SYSTEM_PACKAGES="1")


def test_unmarked_test_may_not_import_an_engine(outcome):
    assert "imports ['deepspeed']" in outcome("def test(): import deepspeed")
    assert (
        "1 passed" in outcome("@pytest.mark.engine\ndef test(): import deepspeed").splitlines()[-1]
    )


def test_child_left_behind_fails_the_file(outcome):
    source = """
import subprocess, psutil
psutil_wait = psutil.wait_procs
psutil.wait_procs = lambda processes, timeout: psutil_wait(processes, timeout=0.1)
def test(): subprocess.Popen(["sleep", "5"])
"""
    assert "left running" in outcome(source)
    waited = "import subprocess\ndef test(): subprocess.Popen(['true'])"
    assert outcome(waited).splitlines()[-1].startswith("1 passed")
