"""The program inside the sandbox: forks one short-lived interpreter per request.

Runs confined, as process 1 of its own process namespace, so the code it runs cannot signal it. It
knows only the standard library (no other file of this package is visible in the sandbox), reads one
JSON frame per request from its standard input and writes one per reply to its standard output. The
child that runs the program has neither of the two: what the program reports comes through a pipe as
bytes that are cut, never parsed, and the verdict about how it ended is made here.

    {"code", "stdin", "files", "tests", "limits"}
    -> {"status", "stdout", "stderr", "value", "tests", "usage", "dirty"}

`passed` means that the program ran past its last line. `os._exit(0)` or `sys.exit(0)` before it is
an error, because whoever appends checks to a program must not see them skipped and call it passed.

Tests run in a second fork (`trial.py`), which never holds the program and alone has the channel of
the verdict; the fork with the program (`candidate.py`) has a channel of arguments and results.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import site
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from wfr.sandbox.inside import candidate, program, trial
else:  # behind the wall there is no package
    sys.path.insert(0, os.path.dirname(__file__))
    import candidate
    import program
    import trial

    del sys.path[0]

_PRELOADED = (
    *("bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "io", "itertools", "math", "operator", "random", "re"),
    *("statistics", "string", "textwrap", "typing"),
)
_REPORT_FD = 3
_TOKEN_BYTES = 16
_OPEN_FILES = 64
_DRAIN_BYTES = 1 << 16
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Answer requests until the other end goes away."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    site.setquit()
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
    requests, replies = _take_control()
    setup = _read_frame(requests)
    if setup is None:
        return
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _write_frame(replies, {"ready": os.getpid()})
    while (request := _read_frame(requests)) is not None:
        _write_frame(replies, _Run(requests, setup).serve(request))


def _take_control() -> tuple[int, int]:
    """Move the control channel away from descriptors 0 and 1."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return requests, replies


def _read_frame(fd: int) -> dict[str, Any] | None:
    header = _read_exactly(fd, 4)
    if header is None:
        return None
    body = _read_exactly(fd, struct.unpack(">I", header)[0])
    return None if body is None else dict(json.loads(body))


def _read_exactly(fd: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write_frame(fd: int, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    data = memoryview(struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]


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


class _Run:
    """One program, from fork to verdict."""

    def __init__(self, control: int, setup: dict[str, Any]) -> None:
        self._control = control
        self._setup = setup
        self._stdout = _Pipe(setup["output_bytes"])
        self._stderr = _Pipe(setup["output_bytes"])
        self._report = _Pipe(setup["value_bytes"] + 64)
        self._token = os.urandom(_TOKEN_BYTES)
        self._clean = set(os.listdir("."))  # not empty where the interpreter lives below /tmp

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one program, and its tests if there are any, and say how it ended."""
        self._setup = {**self._setup, **request["limits"]}
        if request["tests"]:
            self._report.limit = self._setup["output_bytes"]
        started = time.monotonic()
        for name, body in request["files"].items():
            _write_file(name, bytes.fromhex(body))
        stdin = _as_file(request["stdin"].encode("utf-8", "replace"))
        pid, tests = self._start(request, stdin)
        os.close(stdin)
        for pipe in self._pipes:
            os.close(pipe.sink)
        status = self._watch(tests or pid, started + self._setup["wall_s"])
        os.kill(pid, signal.SIGKILL)
        _, code, usage = os.wait4(pid, 0)
        if tests:
            os.waitpid(tests, 0)
        for pipe in self._pipes:
            pipe.drain()
        reply = self._reply(status, os.waitstatus_to_exitcode(code), request["tests"])
        reply["usage"] = {
            "seconds": time.monotonic() - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_memory_mib": usage.ru_maxrss / 1024,
        }
        for pipe in self._pipes:
            os.close(pipe.source)
        return reply

    @property
    def _pipes(self) -> tuple[_Pipe, _Pipe, _Pipe]:
        return self._stdout, self._stderr, self._report

    def _start(self, request: dict[str, Any], stdin: int) -> tuple[int, int]:
        """Fork the program and, where there are tests, their process; 0: there is none."""
        zygote = os.getpid()
        null = os.open("/dev/null", os.O_RDWR)
        if not request["tests"]:
            outside: tuple[int, ...] = (stdin, *(pipe.sink for pipe in self._pipes))
            pid = os.fork()
            if pid == 0:
                self._become(zygote, outside, functools.partial(self._run_program, request["code"]))
            os.close(null)
            return pid, 0
        calls, answers = os.pipe(), os.pipe()
        outside = (stdin, self._stdout.sink, self._stderr.sink, calls[0], answers[1])
        pid = os.fork()
        if pid == 0:
            self._become(zygote, outside, functools.partial(_run_candidate, request["code"]))
        outside = (null, null, null, self._report.sink, calls[1], answers[0])
        tests = os.fork()
        if tests == 0:
            self._become(zygote, outside, functools.partial(self._run_tests, request["tests"]))
        for fd in (*calls, *answers, null):
            os.close(fd)
        return pid, tests

    def _become(self, zygote: int, outside: tuple[int, ...], work: Callable[[], None]) -> NoReturn:
        """Turn this fork into a confined process with these descriptors; never returns."""
        try:
            _enter(outside)
            _confine(self._setup)
            if os.getppid() != zygote:  # it died before the kernel knew that we must not survive it
                os._exit(1)
            work()
        finally:
            os._exit(0)

    def _run_program(self, code: str) -> None:
        status, value, _ = program.execute(code)
        limit = self._setup["value_bytes"]
        os.write(_REPORT_FD, self._token + status + value.encode("utf-8", "replace")[:limit])

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

    def _reply(self, status: str, code: int, tests: list[str]) -> dict[str, Any]:
        stderr, value, outcomes = self._stderr.text(), None, []
        report = bytes(self._report.data)
        spoke = report.startswith(self._token)
        letter, rest = report[_TOKEN_BYTES : _TOKEN_BYTES + 1], report[_TOKEN_BYTES + 1 :]
        if not status and any(pipe.over for pipe in self._pipes):
            status = "output_limit"
        if letter == b"T" and spoke:
            outcomes = _outcomes(rest)
            status = status or _verdict(outcomes, len(tests))
        elif not status and spoke and letter != b"L":
            status = {b"P": "passed", b"V": "passed", b"M": "memory"}.get(letter, "error")
            value = rest.decode("utf-8", "replace") if letter == b"V" else None
        elif not status:
            status = _how_it_died(code)
            stderr += f"the program ended before its last line (exit code {code})\n"
        return {
            "status": status,
            "stdout": self._stdout.text(),
            "stderr": stderr,
            "value": value,
            "tests": outcomes,
            "dirty": set(os.listdir(".")) != self._clean,
        }


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


def _run_candidate(code: str) -> None:
    """Load the program, then answer its tests."""
    letter, _, scope = program.execute(code)
    with contextlib.suppress(OSError):  # the tests are done
        if letter in b"PV":
            candidate.Candidate(scope, _REPORT_FD, 4).serve()
        else:
            candidate.give_up(4, "memory" if letter == b"M" else "error")


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
    rules = bytes.fromhex(setup["filter"])
    if rules:
        instructions = ctypes.create_string_buffer(rules, len(rules))
        address = ctypes.addressof(instructions)
        header = struct.pack("HxxxxxxQ", len(rules) // 8, address)
        _prctl(_PR_SET_SECCOMP, 2, ctypes.c_char_p(header))


def _prctl(option: int, value: int, pointer: ctypes.c_char_p | None = None) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


if __name__ == "__main__":
    main()
