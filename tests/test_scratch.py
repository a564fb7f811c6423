"""Temporary files and shared memory of children go when their owner is killed with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from actors.scratch import Scratch

_OWNER = """
import subprocess, sys
from actors.scratch import Scratch

scratch = Scratch("wfr-test-")
child = '''
import sys, tempfile
from multiprocessing import shared_memory
made = shared_memory.SharedMemory(create=True, size=64)
tempfile.NamedTemporaryFile(delete=False)
print(made.name, tempfile.gettempdir(), flush=True)
sys.stdin.read()
'''
with scratch.for_children():
    process = subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
name, directory = process.stdout.readline().split()
assert directory == scratch.path, (directory, scratch.path)
print(scratch.path, name, flush=True)
sys.stdin.read()
"""


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def _gone(*paths: Path) -> bool:
    return _until(lambda: not any(path.exists() for path in paths))


def _looks(directory: Path) -> int:
    """How often the janitor of `directory` has waited so far."""
    found = (p for p in psutil.process_iter(["cmdline"]) if str(directory) in p.info["cmdline"])
    return next(found).num_ctx_switches().voluntary


@pytest.fixture
def owner(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdin=pipe, stdout=pipe, text=True, env=environment
    )
    yield process
    for each in (*psutil.Process(process.pid).children(recursive=True), process):
        each.kill()
    process.wait()


def test_what_a_killed_owner_and_its_killed_children_leave_is_removed(owner):
    path, name = owner.stdout.readline().split()
    directory, memory = Path(path), Path("/dev/shm") / name
    assert len(list(directory.iterdir())) == 1
    assert memory.exists()
    seen = _looks(directory)
    assert _until(lambda: _looks(directory) >= seen + 2)
    for each in psutil.Process(owner.pid).children(recursive=True):
        each.kill()  # the tracker of the shared memory as well, as Ray does it
    owner.send_signal(signal.SIGKILL)
    assert _gone(directory, memory)


def test_it_stays_while_its_owner_lives_and_goes_when_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    before = dict(os.environ)
    scratch = Scratch("wfr-test-")
    with scratch.for_children():
        assert os.environ["TMPDIR"] == scratch.path
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
        assert not os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(scratch.path)
    assert dict(os.environ) == before
    assert Path(scratch.path).is_dir()
    scratch.close()
    scratch.close()
    assert _gone(Path(scratch.path))
