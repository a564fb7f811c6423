"""A run through the command line, in a process of its own that a test may kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid

import psutil
import pytest


class RunProcess:
    """A `wfr COMMAND` in its own process; `processes()` finds everything that it started."""

    def __init__(self, directory, text, *overrides, command="train"):
        """Start it in `directory`, for which RUNS stands in the configuration's `text`."""
        self.directory = directory
        config = directory / "config.yaml"
        config.write_text(text.replace("RUNS", str(directory)))
        self.token = uuid.uuid4().hex
        words = [sys.executable, "-m", "cluster.cli", command, str(config)]
        for override in overrides:
            words += override.split(" ") if override.startswith("--") else ["--set", override]
        self.log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            words,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "WFR_TEST_TOKEN": self.token},
        )

    @property
    def run(self):
        return self.directory / "run"

    def output(self):
        self.log.flush()
        return (self.directory / "log").read_text()

    def only(self, name):
        (found,) = self.processes(name)
        return found

    def steps(self):
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if record["kind"] == "step"]

    def metrics(self):
        """What the exporter of the living run says."""
        (target,) = json.loads((self.directory / ".prometheus" / "run.json").read_text())
        with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics", timeout=10) as page:
            return page.read().decode()

    def summary(self):
        return json.loads((self.run / "summary.json").read_text())

    def processes(self, name=""):
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("WFR_TEST_TOKEN") == self.token
                if mine and name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def until_step(self, step, deadline_s=240):
        end = time.monotonic() + deadline_s
        while len(self.steps()) < step:
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.2)

    def end(self, deadline_s=300):
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            pytest.fail("the run hangs:\n" + self.output())

    def kill(self):
        """End every process of it at once."""
        for process in self.processes():
            process.kill()
        self.process.wait(30)

    def clean_up(self):
        self.kill()
        self.log.close()
