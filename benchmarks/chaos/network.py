"""Network namespaces: machines with an interface of their own that can be pulled out.

Needs root and `ip`. A machine that is cut off has its link set down; one that is slowed gets a
token bucket (`tc ... tbf`), because not every kernel has `netem`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator


class NoNetworkError(RuntimeError):
    """Namespaces cannot be had here; the text says why."""


class Bridge:
    """A bridge on this machine, and one namespace for each machine behind it."""

    def __init__(self) -> None:
        """Make the bridge; raises NoNetworkError where that is not allowed or not possible."""
        tag = os.getpid() % 10_000
        self.name = f"wfr{tag}"
        self._subnet = f"10.231.{tag % 250}"
        self._spaces: dict[int, str] = {}
        try:
            _run("ip", "link", "add", self.name, "type", "bridge")
            _run("ip", "addr", "add", f"{self.address(0)}/24", "dev", self.name)
            _run("ip", "link", "set", self.name, "up")
        except NoNetworkError:
            self.close()
            raise

    def address(self, index: int) -> str:
        """Address of the machine of this index; 0 is the bridge, where the head is."""
        return f"{self._subnet}.{index + 1}"

    def enter(self, index: int) -> list[str]:
        """Add the namespace of a machine; returns what to put before its commands."""
        space, outside = f"{self.name}n{index}", self._outside(index)
        if index not in self._spaces:
            self._spaces[index] = space
            _run("ip", "netns", "add", space)
            inside = ("peer", "name", "eth0", "netns", space)
            _run("ip", "link", "add", outside, "type", "veth", *inside)
            _run("ip", "link", "set", outside, "master", self.name, "up")
            for command in _inside(self.address(index), self.address(0)):
                _run("ip", "-n", space, *command.split())
        return ["ip", "netns", "exec", space]

    def link(self, index: int, *, up: bool) -> None:
        """Pull a machine's cable out, or put it in again."""
        _run("ip", "link", "set", self._outside(index), "up" if up else "down")

    def limit(self, index: int, rate: str | None) -> None:
        """Let at most `rate` (as `tc` reads it) through to a machine; none: all."""
        device = ("dev", self._outside(index), "root")
        if rate is None:
            _run("tc", "qdisc", "del", *device)
        else:
            bucket = ("rate", rate, "burst", "16kb", "latency", "400ms")
            _run("tc", "qdisc", "replace", *device, "tbf", *bucket)

    def close(self) -> None:
        """Remove everything, and end what still runs in the namespaces: Ray's agents outlive it."""
        for index, space in self._spaces.items():
            for process in _try("ip", "netns", "pids", space).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            _try("ip", "link", "del", self._outside(index))
            _try("ip", "netns", "del", space)
        _try("ip", "link", "del", self.name)

    def _outside(self, index: int) -> str:
        return f"{self.name}v{index}"


def _inside(address: str, gateway: str) -> Iterator[str]:
    yield "link set lo up"
    yield f"addr add {address}/24 dev eth0"
    yield "link set eth0 up"
    yield f"route add default via {gateway}"


def _try(*command: str) -> str:
    try:
        return _run(*command)
    except NoNetworkError:  # it was never made
        return ""


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoNetworkError(f"no {command[0]!r} on the path (package iproute2)") from error
    if done.returncode:
        raise NoNetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
