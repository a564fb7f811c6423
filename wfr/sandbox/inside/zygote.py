"""The program inside the sandbox: forks one short-lived interpreter per request.

Runs confined, as process 1 of its own process namespace, so the code it runs cannot signal it. It
knows only the standard library and the files beside it (no other file of this package is visible in
the sandbox). A request is one JSON frame on its standard input, and a second one with the tests
where there are any; a reply is one frame on its standard output. It never reads a request itself: a
fork does, so that no program finds in its memory what an earlier one was asked.

    {"code", "stdin", "files", "limits", "tested"}, [test, ...]
    -> {"status", "stdout", "stderr", "value", "tests", "usage", "dirty"}

`passed` means that the program ran past its last line. `os._exit(0)` or `sys.exit(0)` before it is
an error. Without tests that is no more than the program's own word, since it can do to its
interpreter whatever it likes. Tests run in a second fork (`trial.py`), which never holds the
program and alone has the channel of the verdict; the fork with the program (`candidate.py`) has a
channel of arguments and results.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import site
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfr.sandbox.inside import run, values
else:  # behind the wall there is no package
    sys.path.insert(0, os.path.dirname(__file__))
    import run
    import values

    del sys.path[0]

_PRELOADED = (
    *("bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "io", "itertools", "math", "operator", "random", "re"),
    *("statistics", "string", "textwrap", "typing"),
)


def main() -> None:
    """Answer requests until the other end goes away."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    site.setquit()
    os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
    requests, replies = _take_control()
    try:
        setup = values.receive(requests)
    except EOFError:
        return
    sys.path += setup["packages"]
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    values.send(replies, {"ready": os.getpid()})
    while _has_request(requests):
        pid = os.fork()
        if pid == 0:
            _serve(requests, replies, setup)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            values.send(replies, run.lost(setup))


def _has_request(requests: int) -> bool:
    """Wait until there is something to read, without reading it; False at the end."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll())


def _serve(requests: int, replies: int, setup: dict[str, Any]) -> None:
    """Serve one request in this fork and end it; an exit code tells the zygote that it did not."""
    code = 1
    try:
        reply = run.Run(requests, setup).serve()
        values.send(replies, reply, limit=None)
        code = 0
    finally:
        os._exit(code)


def _take_control() -> tuple[int, int]:
    """Move the control channel away from descriptors 0 and 1."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return requests, replies


if __name__ == "__main__":
    main()
