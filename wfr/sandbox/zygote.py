"""The program inside the sandbox: forks one short-lived interpreter per request.

Runs confined, as process 1 of its own process namespace, so the code it runs cannot signal it. It
knows only the standard library (no other file of this package is visible in the sandbox), reads one
JSON frame per request from its standard input and writes one per reply to its standard output. The
child that runs the program has neither of the two: what the program reports comes through a pipe as
bytes that are cut, never parsed, and the verdict about how it ended is made here.

    {"code": ..., "stdin": ...}
    -> {"status", "stdout", "stderr", "value", "seconds", "dirty"}

`passed` means that the program ran past its last line. `os._exit(0)` or `sys.exit(0)` before it is
an error, because whoever appends checks to a program must not see them skipped and call it passed.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import importlib
import json
import linecache
import os
import resource
import select
import signal
import site
import struct
import sys
import time
import traceback
import types
from typing import Any, NoReturn

_PRELOADED = (
    *("bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "io", "itertools", "math", "operator", "random", "re"),
    *("statistics", "string", "textwrap", "typing"),
)
_PROGRAM = "<program>"
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
        """Run one program and say how it ended."""
        started = time.monotonic()
        stdin = os.memfd_create("stdin")
        with os.fdopen(stdin, "wb", closefd=False) as file:
            file.write(request["stdin"].encode("utf-8", "replace"))
        os.lseek(stdin, 0, os.SEEK_SET)
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(request["code"], stdin, zygote)
        os.close(stdin)
        for pipe in self._pipes:
            os.close(pipe.sink)
        status = self._watch(pid, started + self._setup["wall_s"])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        reply = self._reply(status, code, time.monotonic() - started)
        for pipe in self._pipes:
            os.close(pipe.source)
        return reply

    @property
    def _pipes(self) -> tuple[_Pipe, _Pipe, _Pipe]:
        return self._stdout, self._stderr, self._report

    def _become(self, code: str, stdin: int, zygote: int) -> NoReturn:
        """Turn this fork into the program; never returns."""
        try:
            _enter(stdin, self._stdout.sink, self._stderr.sink, self._report.sink)
            _confine(self._setup)
            if os.getppid() != zygote:  # it died before the kernel knew that we must not survive it
                os._exit(1)
            status, value = _execute(code)
            limit = self._setup["value_bytes"]
            os.write(_REPORT_FD, self._token + status + value.encode("utf-8", "replace")[:limit])
        finally:
            os._exit(0)

    def _watch(self, pid: int, deadline: float) -> str:
        """Collect output until the program ends; `""`, or why it was killed here."""
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
        for pipe in self._pipes:
            pipe.drain()
        return status

    def _reply(self, status: str, code: int, seconds: float) -> dict[str, Any]:
        stderr, value = self._stderr.text(), None
        report = bytes(self._report.data)
        if not status and any(pipe.over for pipe in self._pipes):
            status = "output_limit"
        if not status and report.startswith(self._token):
            verdict = report[_TOKEN_BYTES : _TOKEN_BYTES + 1]
            status = {b"P": "passed", b"V": "passed", b"M": "memory"}.get(verdict, "error")
            if verdict == b"V":
                value = report[_TOKEN_BYTES + 1 :].decode("utf-8", "replace")
        elif not status:
            status = _how_it_died(code)
            stderr += f"the program ended before its last line (exit code {code})\n"
        return {
            "status": status,
            "stdout": self._stdout.text(),
            "stderr": stderr,
            "value": value,
            "seconds": seconds,
            "dirty": set(os.listdir(".")) != self._clean,
        }


def _how_it_died(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "timeout"
    return "killed" if code < 0 else "error"


def _enter(stdin: int, stdout: int, stderr: int, report: int) -> None:
    """Give the child its four descriptors and no other."""
    for target, source in enumerate((stdin, stdout, stderr, report)):
        os.dup2(source, target + 64)
    for target in range(4):
        os.dup2(target + 64, target)
    os.closerange(4, 128)
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
    program = bytes.fromhex(setup["filter"])
    if program:
        instructions = ctypes.create_string_buffer(program, len(program))
        address = ctypes.addressof(instructions)
        header = struct.pack("HxxxxxxQ", len(program) // 8, address)
        _prctl(_PR_SET_SECCOMP, 2, ctypes.c_char_p(header))


def _prctl(option: int, value: int, pointer: ctypes.c_char_p | None = None) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


class _Outcome:
    """Turns whatever the program raises into one letter for the report, and prints it."""

    letter = b"E"

    def __enter__(self) -> _Outcome:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> bool:
        if kind is None:
            return False
        self.letter = b"M" if issubclass(kind, MemoryError) else b"E"
        if error is not None:
            traceback.print_exception(kind, error, _below(trace), limit=-20)
        return True


def _below(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The part of a traceback that lies in the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename != _PROGRAM:
        trace = trace.tb_next
    return trace


def _execute(code: str) -> tuple[bytes, str]:
    """Run the program in a fresh `__main__`; one letter, and the repr of its last expression."""
    main_module = types.ModuleType("__main__")
    sys.modules["__main__"] = main_module
    sys.argv = [_PROGRAM]
    linecache.cache[_PROGRAM] = (len(code), None, code.splitlines(keepends=True), _PROGRAM)
    value = None
    with _Outcome() as outcome:
        value = _evaluate(code, main_module.__dict__)
        sys.stdout.flush()
        outcome.letter = b"P" if value is None else b"V"
    with _Outcome():
        sys.stdout.flush()
        sys.stderr.flush()
    return outcome.letter, value or ""


def _evaluate(code: str, scope: dict[str, Any]) -> str | None:
    tree = ast.parse(code, _PROGRAM)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, _PROGRAM, "exec"), scope)
    if not isinstance(last, ast.Expr):
        return None
    value = eval(compile(ast.Expression(last.value), _PROGRAM, "eval"), scope)
    return None if value is None else repr(value)


if __name__ == "__main__":
    main()
