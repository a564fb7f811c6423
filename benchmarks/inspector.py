"""The trajectory inspector on a run of a million trajectories: first page, filters, memory.

The journal is written by the journal's own writer: groups of eight siblings, recorded ones with
other names, rewards, versions and operators. The server is `wfr inspect` in a process of its own,
asked over HTTP as its page asks; before it has an index, and with one.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.harness import Figure, Result, at_most, figure
from benchmarks.written_run import SIBLINGS, write_run

FILTERS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "text in tasks": {"text": "boss's"},
    "text nowhere": {"text": "no such words"},
    "text of one letter": {"text": "e"},
    "task": {"task": "task-77"},
    "stop reason": {"stop_reason": "out_of_turns"},
    "operator": {"operator": "Review"},
    "reward range": {"reward_min": 0.4, "reward_max": 0.6},
    "least lag": {"lag_min": 3},
    "lag range": {"lag_min": 1, "lag_max": 2},
    "version": {"version": 100},
    "everything": {
        **{"text": "a", "stop_reason": "answered", "operator": "Search"},
        **{"reward_min": 0.1, "reward_max": 0.9, "lag_min": 1, "lag_max": 3, "version": 90},
    },
}
_ORDERS = ("newest", "best", "stalest", "longest")


def run(quick: bool) -> Result:
    """Write a run, index it, ask; `quick` with few trajectories."""
    trajectories = 8_000 if quick else 1_000_000
    directory = Path(tempfile.mkdtemp(prefix="wfr-inspector-"))
    try:
        size = write_run(directory, trajectories // SIBLINGS)
        with _served(directory) as server:
            cold = server.first_page()
            begun = time.perf_counter()
            while server.ask("run")["indexing"]:
                time.sleep(0.2)
            indexing = time.perf_counter() - begun
            indexing_memory = server.peak_mib()
        with _served(directory) as server:
            warm = server.first_page()
            pages = [server.first_page() for _ in range(2 if quick else 7)]
            assert server.ask("run")["trajectories"] == trajectories
            asked = dict(_ask_all(server, trajectories, repeats=2 if quick else 5))
            single = [_timed(lambda: server.ask("trajectory", group="77", sibling=1))[0]]
            memory = server.peak_mib()
        index = (directory / "inspector.duckdb").stat().st_size
    finally:
        shutil.rmtree(directory)
    slowest = max(asked, key=lambda name: statistics.median(asked[name]))
    named = f"of {len(asked)} filters and orders: {slowest}"
    figures: list[Figure] = [
        figure("first page, no index yet", [cold], "s", at_most(1.0)),
        figure("first page after a start with an index", [warm], "s", at_most(1.0)),
        figure("first page, again", pages, "s", at_most(1.0)),
        figure("slowest filter", [1e3 * s for s in asked[slowest]], "ms", at_most(500), named),
        figure("all filters", [1e3 * statistics.median(s) for s in asked.values()], "ms"),
        figure("one trajectory", [1e3 * s for s in single], "ms"),
        figure("peak memory of the server, indexing", [indexing_memory], "MiB", at_most(1024)),
        figure("peak memory of the server, with an index", [memory], "MiB", at_most(1024)),
        figure("indexing", [trajectories / indexing / 1e3], "1000 trajectories/s"),
        figure("size of the index", [index / 2**20], "MiB"),
    ]
    setup = {"trajectories": trajectories, "siblings": SIBLINGS, "journal_gib": size / 2**30}
    return Result(figures, setup=setup, peers=("duckdb", "starlette"))


def _ask_all(server: _Server, trajectories: int, repeats: int) -> Iterator[tuple[str, list[float]]]:
    """Seconds of every filter in every order, and of pages far down the list."""
    questions = [(name, f, order, 0) for name, f in FILTERS.items() for order in _ORDERS]
    questions += [("none, last page", {}, order, trajectories - 50) for order in _ORDERS]
    for name, chosen, order, start in questions:

        def ask(chosen: Any = chosen, order: str = order, start: int = start) -> Any:
            return server.ask("trajectories", **chosen, order=order, start=start)

        yield f"{name}, {order}", [_timed(ask)[0] for _ in range(repeats)]


def _timed(work: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


class _Server:
    """`wfr inspect` in a process, and a client that has its key."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process = process
        self._address = urlsplit(process.stdout.readline().strip())
        assert self._address.hostname, "wfr inspect did not start"
        self._cookie = ""
        self._get(f"/?{self._address.query}")

    def first_page(self) -> float:
        """Seconds until a browser has what it needs to draw the list."""
        begun = time.perf_counter()
        for path in ("/", "/static/app.js", "/static/style.css"):
            self._get(path)
        self.ask("run")
        self.ask("trajectories", start=0, count=50)
        return time.perf_counter() - begun

    def ask(self, name: str, **values: Any) -> Any:
        """An answer of the server."""
        return json.loads(self._get(f"/api/{name}?{urlencode(values)}"))

    def peak_mib(self) -> float:
        """Largest resident memory so far."""
        text = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def _get(self, path: str) -> bytes:
        host, port = self._address.hostname, self._address.port
        connection = http.client.HTTPConnection(str(host), port, timeout=120)
        connection.request("GET", path, headers={"Cookie": self._cookie} if self._cookie else {})
        reply = connection.getresponse()
        body = reply.read()
        assert reply.status in (200, 303), body
        self._cookie = (reply.getheader("Set-Cookie") or self._cookie).split(";")[0]
        connection.close()
        return body


@contextlib.contextmanager
def _served(directory: Path) -> Iterator[_Server]:
    command = [sys.executable, "-m", "cluster.cli", "inspect", str(directory), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield _Server(process)
        finally:
            process.terminate()
