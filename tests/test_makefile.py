"""The Makefile: one environment, kept as long as what it was made from stays the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("Makefile", "setup.cfg", "pyproject.toml", "requirements/cpu.lock")


@pytest.fixture
def checkout(tmp_path):
    """What the Makefile reads, in a directory of its own."""
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def stamps(checkout: Path) -> list[str]:
    """Names of the two stamps that `make env` would write."""
    printed = make(checkout, "--dry-run", "--always-make", "env").stdout
    return re.findall(r"^touch (\S+)$", printed, re.MULTILINE)


def pretend_installed(checkout: Path) -> None:
    (checkout / ".venv").mkdir(exist_ok=True)
    for stamp in stamps(checkout):
        (checkout / stamp).touch()


def test_second_call_reuses_the_environment(checkout):
    pretend_installed(checkout)
    os.utime(checkout / "requirements/cpu.lock")
    assert make(checkout, "--question", "env").returncode == 0


def test_changed_lock_rebuilds(checkout):
    pretend_installed(checkout)
    with (checkout / "requirements/cpu.lock").open("a") as lock:
        lock.write("another==1\n")
    printed = make(checkout, "--dry-run", "env").stdout
    assert "-m venv --clear .venv" in printed
    assert "--editable" in printed


def test_changed_setup_installs_only_wfr(checkout):
    pretend_installed(checkout)
    with (checkout / "setup.cfg").open("a") as setup:
        setup.write("\n")
    printed = make(checkout, "--dry-run", "env").stdout
    assert "--editable" in printed
    assert "-m venv" not in printed


@pytest.mark.parametrize("target", ["quickstart", "test", "unit", "soak", "lint", "bench"])
def test_every_target_makes_its_environment_first(checkout, target):
    printed = make(checkout, "--dry-run", target).stdout
    *setup, last = printed.splitlines()
    assert "--editable" in "".join(setup)
    assert last.startswith(".venv/bin/")


def test_old_python_is_refused_with_the_remedy(checkout):
    refused = make(checkout, "env", "PYTHON=false")
    assert refused.returncode == 2
    assert "make PYTHON=python3" in refused.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.engine  # for its time: pip asks its indexes
def test_torch_without_cpu_build_stops_with_the_remedy(checkout):
    empty = checkout / "index"
    empty.mkdir()
    refused = make(
        checkout,
        "env",
        f"PYTHON={sys.executable}",
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_EXTRA_INDEX_URL="",
        PIP_INDEX_URL=empty.as_uri(),
    )
    assert refused.returncode == 2
    assert "TORCH_INDEX=" in refused.stderr
    assert "installing" not in refused.stdout


def test_torch_index_reaches_pip(checkout):
    printed = make(checkout, "--dry-run", "env", "TORCH_INDEX=somewhere").stdout
    assert printed.count("--extra-index-url somewhere") == 2


def test_lock_pins_every_line_and_holds_no_cuda():
    lock = (ROOT / "requirements/cpu.lock").read_text()
    pins = [line for line in lock.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ;]+", line) for line in pins)
    names = {line.split("==")[0] for line in pins}
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert not [name for name in names if name.startswith("nvidia")]
    assert next(line for line in pins if line.startswith("torch==")).endswith("+cpu")
