"""The report of a run, whole, under way, killed or empty; nothing in it can do anything."""

from __future__ import annotations

import gzip
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster import cli
from wfr.journal import Journal
from wfr.report.charts import bars, lines
from wfr.report.page import page, write
from wfr.report.run_files import RunFiles
from wfr.schema import to_batch
from wfr.trajectory import (
    Group,
    Message,
    OperatorCall,
    StopReason,
    Trajectory,
    Turn,
    TurnKind,
    VersionSpan,
)

RECORDS = Path(__file__).parent / "data" / "metrics.jsonl.gz"
PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<a href='javascript:alert(1)'>x</a>",
    "</pre></main><iframe src=//evil.example></iframe>",
    "<style>*{display:none}</style>",
    "\u202ereversed\x00",
    "{{7*7}}${7*7}",
)
_ELEMENTS = """
html meta title style main h1 h2 section div figure figcaption svg line text polyline circle ul li
table tr th td span pre details summary p b time
"""
KNOWN = set(_ELEMENTS.split())


class Reader(HTMLParser):
    """Every element and attribute of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


def trajectory(group, reward, said="<think>x</think>", task="t"):
    ids = np.array([-1, 0, 0], np.int16)
    return Trajectory(
        *("run", task, str(group), 0),
        tokens=np.arange(3, dtype=np.int32),
        turn_id=ids,
        behaviour_logprob=np.zeros(3, np.float32),
        version_spans=[VersionSpan(1, 3, 0)],
        turns=[Turn(1, 3, 3, TurnKind.ANSWER, "stop")],
        messages=[Message("user", "q"), Message("assistant", said)],
        stop_reason=StopReason.ANSWERED,
        reward=reward,
        reward_parts={"correct": reward},
        operator_calls=[OperatorCall("Search", "bm25", 0.5, cost_usd=0.25)],
    )


@pytest.fixture
def run(tmp_path):
    """A run directory with these episodes; `records` are lines of its metrics."""

    def make(*episodes, records=(), summary=None, config=None):
        (tmp_path / "config.json").write_text(
            json.dumps(config or {"run": {"name": "demo"}, "train": {"steps": 40}})
        )
        if summary is not None:
            (tmp_path / "summary.json").write_text(json.dumps(summary))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        with Journal(tmp_path / "journal" / "worker-0") as journal:
            for each in episodes:
                journal.append(to_batch(Group(each.group_id, each.task_id, 0, [each])))
        return tmp_path

    return make


def recorded():
    with gzip.open(RECORDS, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read(directory):
    return Reader(page(RunFiles.read(directory)))


def test_a_whole_run(run):
    episodes = [trajectory(n, n / 10, f"episode number {n}") for n in range(10)]
    summary = {"status": "done", "wall_seconds": 99.0, "max_lag_seen": 4, "peak_memory_gib": 7.5}
    found = read(run(*episodes, records=recorded(), summary=summary))
    text = " ".join(found.words)
    assert found.elements.count("svg") >= 9
    assert {"demo", "done", "99 s", "7.5 GiB"} <= set(found.words)
    assert "0.356 before" in text or "before," in text
    shown = [n for n in range(10) if f"episode number {n}" in text]
    assert shown == [0, 1, 2, 7, 8, 9]
    assert text.index("episode number 9") < text.index("episode number 7")
    assert "Search" in found.words
    assert "discarded" not in " ".join(found.words).lower().split("consumed")[0][-400:]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_model_wrote_stays_text(run, payload):
    episode = trajectory(1, 1.0, payload, task=payload)
    lost = {"kind": "worker_lost", "time": 1.0, "name": payload}
    config = {"run": {"name": payload}, "train": {"steps": 1}, payload: payload}
    found = read(run(episode, records=[lost], config=config))
    assert set(found.elements) <= KNOWN
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    addresses = [value for name, value in found.attributes if name in ("href", "src", "action")]
    assert addresses == []
    assert payload.replace("\x00", "") in "".join(found.words).replace("\x00", "").replace(
        "\ufffd", ""
    )


def test_nothing_is_loaded_from_anywhere(run):
    html = page(RunFiles.read(run(trajectory(1, 1.0), records=recorded())))
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "@import" not in html
    assert html.count("http") == html.count("http://www.w3.org/2000/svg") + html.count("http-equiv")


def test_runs_that_are_not_whole(run, tmp_path):
    assert "not begun" in read(run()).words
    directory = run(trajectory(1, 1.0), records=recorded()[:4])
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # killed in the middle of a line
    assert "unfinished" in read(directory).words
    failed = run(records=[], summary={"status": "failed", "reason": "no <room>"})
    assert "no <room>" in read(failed).words
    with pytest.raises(FileNotFoundError, match="holds no run"):
        RunFiles.read(tmp_path / "nothing")


def test_the_command_writes_a_file_and_refuses_what_is_no_run(run, tmp_path):
    call = CliRunner().invoke
    done = call(cli.app, ["report", str(run(trajectory(1, 0.5)))])
    assert done.exit_code == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    refused = call(cli.app, ["report", str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert write(tmp_path, tmp_path / "other.html").exists()


def test_charts_of_odd_numbers():
    nan, inf = float("nan"), float("inf")
    assert lines("x", {"a": [], "b": [(1, nan), (2, inf)]}) == ""
    assert "<circle" in lines("x", {"a": [(1, 5.0)]})
    assert "<polyline" in lines("x", {"a": [(1, 5.0), (2, 5.0)]})
    many = lines("x", {"a": [(n, n % 7) for n in range(50_000)]})
    assert len(many) < 40_000
    assert bars("x", {}) == bars("x", {"a": 0.0}) == ""
    assert "100.0%" in bars("x", {"a": 2.0, "b": 1.0})


def test_long_texts_lose_their_middle(run):
    found = read(run(trajectory(1, 1.0, "a" * 3000 + "MIDDLE" + "b" * 3000)))
    text = "".join(found.words)
    assert "MIDDLE" not in text
    assert "characters …]" in text
