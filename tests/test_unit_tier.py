"""The unit tier is what runs everywhere, so it must not import an engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine  # for its time: it collects the whole tier

ROOT = Path(__file__).resolve().parents[1]

_COLLECT = """
import sys, pytest
unit = ["-m", "not engine and not soak"]
code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *unit])
print("engines:", sorted({"ray", "vllm", "deepspeed"} & sys.modules.keys()))
sys.exit(code)
"""


def test_collecting_the_unit_tier_imports_no_engine():
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("engines: []"), done.stdout[-500:]
