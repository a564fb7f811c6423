"""Recovery of 5 GiB of journal, every byte checked, against `cat FILE > /dev/null` of the same.

Both sides read what the page cache does not hold: the files are dropped from it before each turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Result, at_least, figure, interleave, ratio
from wfr.journal import Journal, JournalReader
from wfr.line_log import Sync
from wfr.schema import to_batch
from wfr.trajectory import Group, StopReason, Trajectory, VersionSpan

_TOKENS, _SIBLINGS = 8192, 8


def run(quick: bool) -> Result:
    """Write a journal, then read it in turns."""
    size = (64 << 20) if quick else (5 << 30)
    directory = Path(tempfile.mkdtemp(prefix="wfr-journal-"))
    try:
        written_s = _write(directory, size)
        files = sorted(directory.glob("*.arrow"))
        total = sum(path.stat().st_size for path in files)

        def cat() -> float:
            _drop(files)
            started = time.perf_counter()
            with open(os.devnull, "wb") as sink:
                subprocess.run(["cat", *map(str, files)], stdout=sink, check=True)
            return time.perf_counter() - started

        def recover() -> float:
            _drop(files)
            started = time.perf_counter()
            reader = JournalReader(directory)
            found = sum(record.size for record in reader.records())
            assert found > 0.99 * total
            assert not reader.torn_bytes
            return time.perf_counter() - started

        times = interleave({"cat": cat, "recover": recover}, repeats=2 if quick else 5, warmup=1)
    finally:
        shutil.rmtree(directory)
    rate = [total / 2**30 / seconds for seconds in times["recover"]]
    return Result(
        [
            ratio(
                "recovery of a journal, speed ÷ cat", times["cat"], times["recover"], at_least(0.7)
            ),
            figure("recovery of a journal", rate, "GiB/s"),
            figure("append to a journal", [total / 2**30 / written_s], "GiB/s"),
        ],
        setup={"journal_gib": total / 2**30, "files": len(files), "checksum": "XXH3-64"},
    )


def _write(directory: Path, size: int) -> float:
    """Groups of 8 × 8192 tokens until `size` is reached; seconds in `append`."""
    rng = np.random.default_rng(0)
    seconds, written, number = 0.0, 0, 0
    with Journal(directory, sync=Sync("off")) as journal:
        while written < size:
            rows = [_trajectory(number, sibling, rng) for sibling in range(_SIBLINGS)]
            batch = to_batch(Group(str(number), "task", 0, rows))
            started = time.perf_counter()
            journal.append(batch)
            seconds += time.perf_counter() - started
            written += batch.nbytes
            number += 1
    return seconds


def _trajectory(group: int, sibling: int, rng: np.random.Generator) -> Trajectory:
    return Trajectory(
        *("run", "task", str(group), sibling),
        tokens=rng.integers(0, 150_000, _TOKENS).astype(np.int32),
        turn_id=np.full(_TOKENS, -1, np.int16),
        behaviour_logprob=np.zeros(_TOKENS, np.float32),
        version_spans=[VersionSpan(0, 1, 0)],
        turns=[],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=1.0,
    )


def _drop(files: list[Path]) -> None:
    """Let the page cache forget the files."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
