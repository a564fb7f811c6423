"""Graders and readers: pairs per second, a hostile answer, and a file larger than one would hold.

Questions are graded by each benchmark's own normalisation, in one thread. Mathematics runs in a
process that is ended when it hangs; a pair is timed as a worker sees it, one after another. The
hostile answers are those on which a plain call of the library runs for minutes. The file is a
gigabyte of JSON lines, read row by row; resident growth is that of this process.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.harness import Result, at_least, at_most, figure
from wfr.grading.maths_process import MathsProcess
from wfr.grading.texts import TEXT_METRICS
from wfr.tasks.rows import rows
from wfr.tasks.source import Task

_QUESTIONS = (
    ("the Eiffel Tower", "Eiffel Tower!", True),
    ("Barack Hussein Obama II, the 44th president", "Barack Obama", False),
    ("1,234", "1234", False),
    ("no", "No.", True),
)
_MATHS = (
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"$x^2 + 2x + 1$", "(x+1)^2"),
    (r"\sqrt{50}", r"5\sqrt{2}"),
    ("-5", "5"),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3, \frac{\pi}{2})"),
    ("27.5", r"\frac{55}{2}"),
)
_HOSTILE = (r"9^{9^{9^{9}}}", "(" * 4000 + "x" + ")" * 4000, r"\frac{1}{" * 300 + "1" + "}" * 300)
_LINE = 512


def run(quick: bool) -> Result:
    """Measure questions, mathematics and a large file."""
    pairs, rounds, size = (2_000, 2, 8 << 20) if quick else (100_000, 5, 1 << 30)
    questions = [_questions(pairs) for _ in range(rounds)]
    maths, hostile = asyncio.run(_maths(3 if quick else 30))
    seconds, growth, count = _file(size)
    return Result(
        [
            figure("questions graded, one core", questions, "1/s", at_least(50_000)),
            figure("a pair of mathematics", maths, "ms", at_most(20)),
            figure("a hostile answer", hostile, "s"),
            figure("a file of JSON lines", [size / 2**20 / seconds], "MiB/s"),
            figure("resident growth over the file", [growth / 2**20], "MiB", at_most(64)),
        ],
        setup={"pairs": pairs, "bytes": size, "rows": count},
        peers=("math-verify",),
    )


def _questions(count: int) -> float:
    """Pairs per second over all metrics of questions."""
    metrics = [name for name in TEXT_METRICS if name.startswith("qa_")] or list(TEXT_METRICS)
    tasks = [
        (TEXT_METRICS[metric], Task("t", "q", (gold,), "s", metric=metric), answer)
        for metric in metrics
        for answer, gold, _ in _QUESTIONS
    ]
    started = time.perf_counter()
    for number in range(count):
        grade, task, answer = tasks[number % len(tasks)]
        grade(task, answer)
    return count / (time.perf_counter() - started)


async def _maths(rounds: int) -> tuple[list[float], list[float]]:
    process = MathsProcess()
    try:
        await process.equal("1", "1")
        pairs = await _timed(process, _distinct(rounds))
        hostile = await _timed(process, [(answer, "1") for answer in _HOSTILE])
    finally:
        await process.close()
    return [1e3 * seconds for seconds in pairs], hostile


def _distinct(rounds: int) -> list[tuple[str, str]]:
    """Pairs of which no two are alike: every number of them grows from round to round."""

    def grown(text: str, by: int) -> str:
        return re.sub(r"\d+", lambda digits: str(int(digits.group()) + 2 * by), text)

    return [(grown(a, n), grown(gold, n)) for n in range(rounds) for a, gold in _MATHS]


async def _timed(process: MathsProcess, pairs: Sequence[tuple[str, str]]) -> list[float]:
    found = []
    for answer, gold in pairs:
        started = time.perf_counter()
        await process.equal(answer, gold)
        found.append(time.perf_counter() - started)
    return found


def _file(size: int) -> tuple[float, int, int]:
    """Seconds to read a file of this size, growth of memory in bytes, and rows."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.jsonl"
        line = json.dumps({"question": "q" * (_LINE - 60), "answer": "#### 5"}) + "\n"
        lines = size // len(line)
        with path.open("w", encoding="utf-8") as file:
            for start in range(0, lines, 10_000):
                file.write(line * min(10_000, lines - start))
        process = psutil.Process()
        before = most = process.memory_info().rss
        started = time.perf_counter()
        count = 0
        for count, _ in enumerate(rows(path), 1):
            if count % 50_000 == 0:
                most = max(most, process.memory_info().rss)
        return time.perf_counter() - started, most - before, count
