"""The report of a run with a large journal: `wfr report` in a process of its own."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Result, at_most, figure
from benchmarks.written_run import SIBLINGS, write_run

_BYTES = 6_600  # of one trajectory in the journal


def run(quick: bool) -> Result:
    """Write a journal of 1 GB (`quick`: of 10 MB), and its report again and again."""
    wanted = 1e7 if quick else 1e9
    directory = Path(tempfile.mkdtemp(prefix="wfr-report-"))
    try:
        size = write_run(directory, round(wanted / _BYTES) // SIBLINGS)
        command = [sys.executable, "-m", "cluster.cli", "report", str(directory)]
        seconds = []
        for _ in range(2 if quick else 5):
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begun)
        page = (directory / "report.html").stat().st_size
    finally:
        shutil.rmtree(directory)
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Result(
        [
            figure(f"report of a journal of {wanted / 1e9:g} GB", seconds, "s", at_most(30)),
            figure("peak memory, mapped files included", [peak_mib], "MiB"),
            figure("size of the page", [page / 1024], "KiB"),
        ],
        setup={"journal_gb": size / 1e9, "siblings": SIBLINGS},
    )
