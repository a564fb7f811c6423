"""A replica that listens by itself, without a proxy in front of it."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from cluster.serving.guard import Application
from wfr.serving_config import ServingConfig

KEEP_ALIVE_S = 75
"""Seconds that an idle connection is kept: longer than clients and proxies keep theirs, so that no
request is sent into a connection that is just being closed."""


class Listener:
    """Answers with `application` from now on.

    Replicas on one machine share the port: the kernel gives each new connection to one of them,
    and none to one that has died.
    """

    def __init__(self, application: Application, config: ServingConfig, port: int) -> None:
        """Listen on `port`; raises OSError where that cannot be."""
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((config.host, port))
        settings = uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            access_log=False,
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(config.drain_s)),
        )
        self._server = uvicorn.Server(settings)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def close(self) -> None:
        """Take no new connection, and wait for the answers under way."""
        self._server.should_exit = True
        await asyncio.gather(self._serving, return_exceptions=True)
        self._socket.close()
