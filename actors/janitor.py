"""Cleans up after a process that may be killed: `python -I -S janitor.py DIRECTORY PID`.

It lives apart from that process, as a child of nobody, and reads from a pipe whose other end only
that process holds. While it waits it notes which descendants of PID have DIRECTORY for temporary
files, and what shared memory they have mapped, which they do when they start: so it looks ever more
seldom. When the pipe closes, PID has ended, however that came about, or needs DIRECTORY no more.
Those descendants have a moment to end too; then their shared memory and DIRECTORY are removed.
Nothing but the standard library is imported, so that it costs little.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from pathlib import Path

_LOOK_S, _RARELY_S, _SLOWER = 0.1, 60.0, 1.05
_END_S, _SOON_S = 30.0, 0.1
_SHARED = ("/dev/shm/psm_", "/dev/shm/sem.mp-")
"""How `multiprocessing` names what it makes: memory, semaphores."""


def descendants(pid: int) -> set[int]:
    """The living processes that `pid` has started, and those that they have."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in _children(waiting.pop()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def uses(pid: int, directory: str) -> bool:
    """Whether a process was started with `directory` for temporary files."""
    try:
        return f"TMPDIR={directory}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(
            b"\0"
        )
    except OSError:
        return False


def shared_memory(pid: int) -> set[str]:
    """The files of shared memory that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/dev/shm/" in line}
    return {path for path in paths if path.startswith(_SHARED)}


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text("ascii").split())
    except OSError:
        pass
    return found


def _clean_up_after(directory: str, pid: int) -> None:
    mapped: set[str] = set()
    family: set[int] = set()
    pause = _LOOK_S
    while not select.select([sys.stdin], [], [], pause)[0]:
        family = {each for each in descendants(pid) if uses(each, directory)} or family
        mapped = mapped.union(*map(shared_memory, family))
        pause = min(_SLOWER * pause, _RARELY_S)
    end = time.monotonic() + _END_S
    while family and time.monotonic() < end:
        time.sleep(_SOON_S)
        family = {each for each in family if Path(f"/proc/{each}").exists()}
    for path in mapped:
        Path(path).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # whoever started this need not wait for more
    os.setsid()
    _clean_up_after(sys.argv[1], int(sys.argv[2]))
