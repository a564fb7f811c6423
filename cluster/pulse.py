"""The pulse: what a process says of itself and others when it is asked whether it is alive."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Pulse(NamedTuple):
    """What a process answers that is asked whether it is alive.

    Attributes:
        node: id of the node that it runs on.
        heard: names of the processes that have answered it since it was asked before.
    """

    node: str
    heard: Collection[str] = ()
