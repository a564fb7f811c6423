"""Ports on this machine."""

from __future__ import annotations

import socket


def free_port(host: str = "") -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
