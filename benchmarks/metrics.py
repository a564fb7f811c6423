"""What seeing costs: time spent on a run's records against the time the run took; one scrape.

The records are those of a real run of the canvas quickstart, 128 episodes a step. Each goes where a
run sends it: to `metrics.jsonl`, to the exporter's metrics, to the live view, and to TensorBoard's
queue. The share is taken over 500 episodes, the live view's drawing included.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from rich.console import Console

from benchmarks.harness import Result, at_most, figure, interleave
from cluster.exporter import exporter
from cluster.live import LiveView
from cluster.progress import REFRESHES_PER_SECOND
from cluster.run_directory import RunDirectory
from cluster.trackers import trackers
from wfr.config import MetricsConfig, parse_config
from wfr.metrics import RunMetrics

_RECORDS = Path(__file__).parents[1] / "tests" / "data" / "metrics.jsonl.gz"
_EPISODES_PER_STEP = 128
_EPISODES = 500


def run(quick: bool) -> Result:
    """Handle the records again and again, scrape, and draw."""
    with gzip.open(_RECORDS, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    took_s = (steps[-1]["time"] - steps[0]["time"]) / (steps[-1]["step"] - steps[0]["step"])
    directory = Path(tempfile.mkdtemp(prefix="wfr-metrics-"))
    try:
        times = _measure(directory, records, repeats=3 if quick else 20)
    finally:
        shutil.rmtree(directory)
    handled = [seconds / len(steps) for seconds in times["records"]]
    drawn = [seconds * REFRESHES_PER_SECOND for seconds in times["draw"]]
    share = [a / took_s + b for a, b in zip(handled, drawn, strict=True)]
    run_s = _EPISODES / _EPISODES_PER_STEP * took_s
    return Result(
        [
            figure(
                f"share of a run's time, {_EPISODES} episodes",
                [100 * each for each in share],
                "%",
                at_most(1),
            ),
            figure("handling of one step's records", [1000 * each for each in handled], "ms"),
            figure("one drawing of the live view", [1000 * each for each in times["draw"]], "ms"),
            figure("one scrape", [1000 * each for each in times["scrape"]], "ms", at_most(100)),
        ],
        setup={
            "steps": len(steps),
            "seconds_per_step": took_s,
            "seconds_of_500_episodes": run_s,
            "draws_per_second": REFRESHES_PER_SECOND,
        },
    )


def _measure(
    directory: Path, records: list[dict[str, Any]], repeats: int
) -> Mapping[str, tuple[float, ...]]:
    config = parse_config(
        {"run": {"dir": str(directory)}, "metrics": {"trackers": ["tensorboard"]}}
    )
    registry, view, kept = CollectorRegistry(), LiveView("run"), RunDirectory(config)
    metrics, console = RunMetrics(registry), Console(width=120, file=io.StringIO())
    with (
        exporter(MetricsConfig(port=0), registry) as address,
        trackers(config, kept.path, print) as follow,
    ):
        kept.follow(follow)

        def handle() -> None:
            for record in records:
                kept.log(record)
                metrics.observe(record)
                view.observe(record)

        def scrape() -> float:
            started = time.perf_counter()
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
                assert b"wfr_optimizer_steps_total" in page.read()
            return time.perf_counter() - started

        times = interleave(
            {"records": handle, "scrape": scrape, "draw": lambda: console.print(view)},
            repeats=repeats,
        )
    kept.close()
    return times
