"""One program, from fork to verdict: its limits, its output, its tests.

Runs in a process of its own, which ends with the program: what a request held is nowhere to be
found by the next one. The fork with the program is made before the tests are read.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from wfr.sandbox.inside import candidate, program, trial, values
else:
    import candidate
    import program
    import trial
    import values

_REPORT_FD = 3
_TOKEN_BYTES = 16
_OPEN_FILES = 64
_DRAIN_BYTES = 1 << 16
_LAST_BREATH_MS = 200
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Pipe:
    """A pipe whose bytes are collected up to a limit."""

    def __init__(self, limit: int) -> None:
        self.source, self.sink = os.pipe()
        self.limit = limit
        self.data = bytearray()
        self.open = True
        os.set_blocking(self.source, False)

    @property
    def over(self) -> bool:
        return len(self.data) > self.limit

    def drain(self) -> None:
        """Take what is there, up to one byte more than the limit."""
        while self.open and not self.over:
            try:
                part = os.read(self.source, _DRAIN_BYTES)
            except BlockingIOError:
                return
            self.open = bool(part)
            self.data += part

    def text(self) -> str:
        return bytes(self.data[: self.limit]).decode("utf-8", "replace")


class Run:
    """One request: `control` is where it is read from, `setup` the limits that it does not name."""

    def __init__(self, control: int, setup: dict[str, Any]) -> None:
        request = values.receive(control, limit=None)
        self._control = control
        self._setup = {**setup, **request["limits"]}
        self._request = request
        self._stdout = _Pipe(setup["output_bytes"])
        self._stderr = _Pipe(setup["output_bytes"])
        room = "output_bytes" if request["tested"] else "value_bytes"
        self._report = _Pipe(setup[room] + 64)
        self._token = os.urandom(_TOKEN_BYTES)
        self._clean = set(os.listdir("."))  # not empty where the interpreter lives below /tmp

    def serve(self) -> dict[str, Any]:
        """Run the program, and its tests if there are any, and say how it ended."""
        started = time.monotonic()
        for name, body in self._request["files"].items():
            _write_file(name, bytes.fromhex(body))
        pid, judge, count = self._start()
        for pipe in self._pipes:
            os.close(pipe.sink)
        status = self._watch(judge or pid, started + self._setup["wall_s"])
        own_end = not judge or _ends(pid)
        os.kill(pid, signal.SIGKILL)
        _, code, usage = os.wait4(pid, 0)
        if judge:
            os.waitpid(judge, 0)
        for pipe in self._pipes:
            pipe.drain()
        code = os.waitstatus_to_exitcode(code)
        reply = self._reply(status, _how_it_died(code) if own_end else "error", count)
        reply["usage"] = {
            "seconds": time.monotonic() - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_memory_mib": usage.ru_maxrss / 1024,
        }
        return reply

    @property
    def _pipes(self) -> tuple[_Pipe, _Pipe, _Pipe]:
        return self._stdout, self._stderr, self._report

    def _start(self) -> tuple[int, int, int]:
        """Fork the program and, where there are tests, their judge.

        Returns:
            Both process ids and the count of tests; zeros where there are no tests.
        """
        stdin = _as_file(self._request["stdin"].encode("utf-8", "replace"))
        output = self._stdout.sink, self._stderr.sink
        if not self._request["tested"]:
            pid = self._fork((stdin, *output, self._report.sink), self._run_program)
            os.close(stdin)
            return pid, 0, 0
        calls, answers = os.pipe(), os.pipe()
        pid = self._fork((stdin, *output, calls[0], answers[1]), self._run_candidate)
        tests = values.receive(self._control, limit=None)
        null = os.open("/dev/null", os.O_RDWR)
        outside = (null, null, null, self._report.sink, calls[1], answers[0])
        judge = self._fork(outside, functools.partial(self._run_tests, tests))
        for fd in (*calls, *answers, null, stdin):
            os.close(fd)
        return pid, judge, len(tests)

    def _fork(self, outside: tuple[int, ...], work: Callable[[], None]) -> int:
        """A confined process with these descriptors, from 0 on, and no other."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(parent, outside, work)
        return pid

    def _become(self, parent: int, outside: tuple[int, ...], work: Callable[[], None]) -> NoReturn:
        try:
            _enter(outside)
            _confine(self._setup)
            if os.getppid() != parent:  # it died before the kernel knew that we must not survive it
                os._exit(1)
            work()
        finally:
            os._exit(0)

    def _run_program(self) -> None:
        letter, value, _ = program.execute(self._request["code"])
        limit = self._setup["value_bytes"]
        os.write(_REPORT_FD, self._token + letter + value.encode("utf-8", "replace")[:limit])

    def _run_candidate(self) -> None:
        """Load the program, then answer its tests."""
        letter, _, scope = program.execute(self._request["code"])
        with contextlib.suppress(OSError):  # the tests are done
            if letter in b"PV":
                candidate.Candidate(scope, _REPORT_FD, 4).serve()
            else:
                candidate.give_up(4, "memory" if letter == b"M" else "error")

    def _run_tests(self, tests: list[str]) -> None:
        channel = trial.Channel(4, 5)
        letter = channel.loaded()
        os.write(_REPORT_FD, self._token + letter)
        if letter == b"T":
            trial.judge(tests, channel, _report_line)

    def _watch(self, pid: int, deadline: float) -> str:
        """Collect output until process `pid` ends; `""`, or why it was killed here."""
        poll = select.poll()
        ended = os.pidfd_open(pid)
        poll.register(ended, select.POLLIN)
        poll.register(self._control, 0)  # reports only that the other end went away
        by_fd = {pipe.source: pipe for pipe in self._pipes}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        status = ""
        while not status:
            left = deadline - time.monotonic()
            ready = [fd for fd, _ in poll.poll(max(0.0, left) * 1000)]
            if self._control in ready:
                os._exit(1)  # process 1 takes its whole namespace along
            for fd in by_fd.keys() & ready:
                by_fd[fd].drain()
                if not by_fd[fd].open:
                    poll.unregister(fd)
            if any(pipe.over for pipe in self._pipes):
                status = "output_limit"
            elif ended in ready:
                break
            elif left <= 0:
                status = "timeout"
        os.kill(pid, signal.SIGKILL)
        os.close(ended)
        return status

    def _reply(self, status: str, death: str, count: int) -> dict[str, Any]:
        stderr, value, outcomes = self._stderr.text(), None, []
        report = bytes(self._report.data)
        spoke = report.startswith(self._token)
        letter, rest = report[_TOKEN_BYTES : _TOKEN_BYTES + 1], report[_TOKEN_BYTES + 1 :]
        if not status and any(pipe.over for pipe in self._pipes):
            status = "output_limit"
        if letter == b"T" and spoke:
            outcomes = _outcomes(rest)
            status = status or _verdict(outcomes, count)
        elif not status and spoke and letter != b"L":
            status = {b"P": "passed", b"V": "passed", b"M": "memory"}.get(letter, "error")
            value = rest.decode("utf-8", "replace") if letter == b"V" else None
        elif not status:
            status = death
            stderr += "the program ended before its last line\n"
        return {
            "status": status,
            "stdout": self._stdout.text(),
            "stderr": stderr,
            "value": value,
            "tests": outcomes,
            "dirty": set(os.listdir(".")) != self._clean,
        }


def lost(setup: dict[str, Any]) -> dict[str, Any]:
    """The reply for a program that ended this process, which is a thing that programs do."""
    return {
        "status": "killed",
        "stdout": "",
        "stderr": "the program killed what watches over it\n",
        "value": None,
        "tests": [],
        "usage": {"seconds": setup["wall_s"], "cpu_seconds": 0.0, "peak_memory_mib": 0.0},
        "dirty": True,
    }


def _ends(pid: int) -> bool:
    """Whether a process that may be on its way out ends by itself."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    try:
        return bool(poll.poll(_LAST_BREATH_MS))
    finally:
        os.close(ended)


def _as_file(data: bytes) -> int:
    """A descriptor that reads `data`."""
    fd = os.memfd_create("stdin")
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _write_file(name: str, data: bytes) -> None:
    """A file that the program finds in its directory."""
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)


def _report_line(line: list[str]) -> None:
    os.write(_REPORT_FD, json.dumps(line).encode() + b"\n")


def _outcomes(report: bytes) -> list[list[str]]:
    """Whole lines of a report that the tests' process alone can write."""
    return [list(json.loads(line)) for line in report.split(b"\n")[:-1]]


def _verdict(outcomes: list[list[str]], count: int) -> str:
    words = [word for word, _ in outcomes]
    if words == ["passed"] * count:
        return "passed"
    if "unsupported" in words:
        return "unavailable"
    return "failed" if len(words) == count else "killed"


def _how_it_died(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "timeout"
    return "killed" if code < 0 else "error"


def _enter(outside: tuple[int, ...]) -> None:
    """Give a fork these descriptors, from 0 on, and no other."""
    for target, source in enumerate(outside):
        os.dup2(source, target + 64)
    for target in range(len(outside)):
        os.dup2(target + 64, target)
    os.closerange(len(outside), 128)
    os.setsid()


def _confine(setup: dict[str, Any]) -> None:
    """Set the limits of one program, then the system-call filter."""
    cpu = int(setup["wall_s"]) + 1
    for what, limit in (
        (resource.RLIMIT_AS, setup["memory_bytes"]),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, setup["file_bytes"]),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    rules = bytes.fromhex(setup["filter"]).replace(bytes.fromhex(setup["own_pid"]), _own_pid())
    if rules:
        instructions = ctypes.create_string_buffer(rules, len(rules))
        address = ctypes.addressof(instructions)
        header = struct.pack("HxxxxxxQ", len(rules) // 8, address)
        _prctl(_PR_SET_SECCOMP, 2, ctypes.c_char_p(header))


def _own_pid() -> bytes:
    return struct.pack("=I", os.getpid())


def _prctl(option: int, value: int, pointer: ctypes.c_char_p | None = None) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")
