"""The heart of a hosted role: it answers that it lives, and can end what it has started."""

from __future__ import annotations

import contextlib

import psutil
import ray

from cluster.pulse import Pulse

HEART = "heart"
"""Concurrency group that answers where a process is otherwise busy with one call at a time."""

WRITING = "writing"
"""Concurrency group in which a learner rank writes its part of a checkpoint."""


class Heart:
    """Mixed into every class that Ray hosts."""

    def beat(self) -> Pulse:
        """Answer."""
        return Pulse(node())

    def end_children(self) -> None:
        """Kill the processes that this one has started: nobody else can reach a frozen one."""
        end_children()


def end_children() -> None:
    """Kill the processes that this one has started.

    Except the trackers of their shared memory: each ends with them, and removes it.
    """
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not any("resource_tracker" in part for part in child.cmdline()):
                child.kill()


def node() -> str:
    """Id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
