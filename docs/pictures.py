"""Draw the pictures of a run that the documentation shows: the terminal and the report.

    python docs/pictures.py runs/quickstart

writes docs/images/terminal.svg, as the screen was after two thirds of the steps, and report.png
(with Chromium).
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console

from cluster.live import LiveView
from wfr.report import page

IMAGES = Path(__file__).parent / "images"


def terminal(run: Path) -> None:
    """The live view, drawn from the records of `run`."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    steps = [number for number, record in enumerate(records) if record["kind"] == "step"]
    seen = records[: steps[2 * len(steps) // 3] + 1]
    times = iter([seen[0]["time"]])
    view = LiveView(run.name, clock=lambda: next(times, seen[-1]["time"]))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    view.phase(f"training, max_lag {config['buffer']['max_lag']}")
    view.target(config["train"]["steps"])
    for record in seen:
        view.observe(record)
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    console.print(view)
    IMAGES.joinpath("terminal.svg").write_text(
        console.export_svg(title=f"wfr train {run.name}.yaml"), encoding="utf-8"
    )


def report(run: Path) -> None:
    """The head of the report of `run`, in Chromium."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1340, "height": 1150})
        tab.goto(page.write(run).resolve().as_uri())
        tab.screenshot(path=IMAGES / "report.png")
        browser.close()


if __name__ == "__main__":
    terminal(Path(sys.argv[1]))
    report(Path(sys.argv[1]))
