"""The machines of a chaos run: raylets on this one, each in a network namespace where it can be."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

from benchmarks.chaos.network import Bridge
from benchmarks.chaos.schedule import ROLES
from cluster.ports import free_port

_TOKEN, _MACHINE = "WFR_CHAOS_TOKEN", "WFR_CHAOS_MACHINE"
_STORE_BYTES = 200 << 20
_START_S = 180.0


class Machines:
    """A head, which stays, and machines that come and go; `address` is what drivers join.

    Every process that is started on them, by whomever, bears a token in its environment and is
    found by it.
    """

    def __init__(self, count: int, bridge: Bridge | None, directory: Path) -> None:
        """Start the head and `count` machines behind `bridge`; none: all on the loopback.

        What their processes write goes to `logs`, their temporary files to `temporary`, both in
        `directory`, whose path is short: sockets lie in it.
        """
        self.bridge = bridge
        self._logs, self.temporary = directory / "logs", directory / "tmp"
        for path in (self._logs, self.temporary):
            path.mkdir()
        self._token = uuid.uuid4().hex
        self._port = free_port()
        self._started: list[subprocess.Popen[bytes]] = []
        self._up: dict[int, subprocess.Popen[bytes]] = {}
        self.count = count
        self.address = f"{self._ip(0)}:{self._port}"
        self._start(0, "--head", f"--port={self._port}", "--include-dashboard=false")
        self._until_up(0)
        for index in range(1, count + 1):  # one by one: two that start at once may fail
            self.start(index)
            self._until_up(index)

    def start(self, index: int) -> None:
        """Start the raylet of a machine, which may have had one before."""
        self._up[index] = self._start(index, f"--address={self.address}")

    def fallen(self) -> list[int]:
        """The machines whose raylet has ended."""
        return [index for index, process in self._up.items() if process.poll() is not None]

    def environment(self, index: int = 0) -> dict[str, str]:
        """Environment of a process that runs on a machine; 0 is the head's."""
        interface = "lo" if self.bridge is None else "eth0" if index else self.bridge.name
        return {
            **os.environ,
            **{_TOKEN: self._token, _MACHINE: str(index), "GLOO_SOCKET_IFNAME": interface},
            "RAY_ADDRESS": self.address,
            "TMPDIR": str(self.temporary),
            # What torch has compiled before, which would take a minute again.
            "TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}",
            **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token},
            "RAY_worker_niceness": "0",  # 15 starves it where anything else runs
            "RAY_USAGE_STATS_ENABLED": "0",
            # A machine that is cut off counts as dead after 6 s, not after a minute.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
        }

    def processes(self, name: str = "", machine: int | None = None) -> list[psutil.Process]:
        """Everything alive whose command line contains `name`, of one machine or all; by pid."""
        found = []
        for process in psutil.process_iter():
            try:
                environ = process.environ()
                mine = environ.get(_TOKEN) == self._token
                if mine and machine is not None:
                    mine = environ.get(_MACHINE) == str(machine)
                if mine and name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def of_role(self, role: str) -> list[psutil.Process]:
        """The processes of a role, by pid."""
        return self.processes(ROLES[role])

    def orphans(self) -> list[psutil.Process]:
        """Everything alive that does not descend from `ray start` of a machine."""
        trees = set()
        for started in self._started:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(started.pid)
                trees |= {root, *root.children(recursive=True)}
        return [process for process in self.processes() if process not in trees]

    def raylet(self, machine: int) -> psutil.Process | None:
        """The raylet itself, where there is one."""
        started = self._up[machine]
        try:
            children = psutil.Process(started.pid).children()
            return next((p for p in children if "/raylet/raylet" in p.cmdline()[0]), None)
        except (psutil.Error, IndexError):
            return None

    def shared_memory(self) -> set[str]:
        """The files of /dev/shm that any of their processes has mapped just now."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(OSError):  # not psutil: it would have the kernel count pages
                lines = Path(f"/proc/{process.pid}/maps").read_text("utf-8").splitlines()
                found |= {line.split(maxsplit=5)[-1] for line in lines if "/dev/shm/" in line}
        return {path for path in found if not path.endswith("(deleted)")}

    def close(self) -> None:
        """End every process of every machine; what cleans up after others then ends by itself."""
        spared = {process.pid for process in self.processes("actors/janitor.py")}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in spared:
                    process.kill()
        for started in self._started:
            started.wait(30)

    def _ip(self, index: int) -> str:
        return self.bridge.address(index) if self.bridge else "127.0.0.1"

    def _start(self, index: int, *arguments: str) -> subprocess.Popen[bytes]:
        inside = self.bridge.enter(index) if self.bridge and index else []
        command = [*inside, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        command += [*arguments, f"--node-ip-address={self._ip(index)}", "--num-cpus=0"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        command += [f"--object-store-memory={_STORE_BYTES}"]
        environment = self.environment(index)
        del environment["RAY_ADDRESS"]  # `ray start --head` refuses it
        with (self._logs / f"machine-{index}.log").open("ab") as log:
            self._started.append(
                subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            )
        return self._started[-1]

    def _until_up(self, index: int) -> None:
        """Ray says so once the raylet has joined; where it gives up, after 30 s, try again."""
        log = self._logs / f"machine-{index}.log"
        end = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            if index and self._started[-1].poll() is not None and time.monotonic() < end:
                self.start(index)
            if self._started[-1].poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"machine {index} has not come up: {log.read_text()[-2000:]}")
            time.sleep(0.2)
