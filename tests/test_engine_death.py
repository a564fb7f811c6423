"""A process of an engine does not outlive its parent, however that one ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

PARENT = """
import multiprocessing, time
from actors.engine_death import end_with_parent

def child(pipe):
    end_with_parent()
    pipe.send(None)
    time.sleep(600)

if __name__ == "__main__":
    end_with_parent()  # does nothing here
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    ours.recv()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_child_ends_when_its_parent_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        assert not select.select([child], [], [], 0)[0]
        parent.send_signal(signal.SIGKILL)
    assert select.select([child], [], [], 20)[0], "the child outlived its parent"
    os.close(child)
