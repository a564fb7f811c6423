"""Crash points: places where a test may kill the process; in a run they do nothing."""

from __future__ import annotations

from collections.abc import Callable

NAMES = (
    "put.begin",
    "put.torn",
    "put.written",
    "put.indexed",
    "put.booked",
    "turn.written",
    "admit.booked",
    "take.begin",
    "take.booked",
    "publish.begin",
    "publish.booked",
    "acknowledge.begin",
    "acknowledge.compacted",
    "acknowledge.removed",
    "spill.begin",
    "spill.written",
    "rotate.begin",
    "rotate.closed",
    "rotate.opened",
    "checkpoint.begin",
    "checkpoint.written",
    "checkpoint.visible",
    "restart.begin",
    "restart.booked",
)

hook: Callable[[str], None] | None = None
"""Called with the name of every point that is reached; only tests set it."""


def reach(name: str) -> None:
    """Say that the point `name` is reached."""
    if hook is not None:
        hook(name)
