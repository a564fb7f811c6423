"""Serving from the command line: Ray, Ray Serve, and signals."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve

from cluster.indexing import index_corpus
from cluster.launch import start_ray
from cluster.ports import free_port
from cluster.serving.deployment import APPLICATION, application, device, end_shared
from cluster.serving.follow import Checkpoint
from wfr.config import Config


def serve_until_told(
    config: Config, checkpoint: Checkpoint, follow: Path | None, note: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then let what runs finish.

    Raises:
        OSError: the port is taken.
        RuntimeError: the engine does not come up.
        FormatError: the corpus to search is none.
    """
    serving = config.serving
    port = serving.port or free_port()
    _check_port(serving.host, port)
    index_corpus(config, note)
    work = Path(f"{config.run_dir}-serving").resolve()
    (work / "logs").mkdir(parents=True, exist_ok=True)
    told = threading.Event()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for batch work
    start_ray()
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, which sets its own
        signal.signal(number, lambda *_: told.set())
    try:
        options: dict[str, Any] = {"host": serving.host, "port": port}
        if serving.direct:
            options = {"location": "NoServer"}
        elif serving.tls_cert is not None:
            options |= {"ssl_certfile": serving.tls_cert, "ssl_keyfile": serving.tls_key}
        serve.start(http_options=options)
        note(f"version {checkpoint.version} of {checkpoint.path} starts; logs in {work / 'logs'}")
        bound = application(
            *(config, checkpoint),
            follow=str(follow) if follow else None,
            work=work,
            device=device(),
            port=port if serving.direct else None,
        )
        serve.run(bound, name=APPLICATION, route_prefix="/", blocking=False)
        scheme = "http" if serving.tls_cert is None else "https"
        note(f"{scheme}://{serving.host}:{port} answers; Ctrl-C or SIGTERM ends it in order")
        told.wait()
        note("ending: what is being answered is finished first")
        serve.delete(APPLICATION)
        serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        end_shared()
        ray.shutdown()


def _check_port(host: str, port: int) -> None:
    """Refuse at once what Ray would refuse after a while, in a log."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(
                f"serving.port={port}: {error.strerror} on {host}; choose another one"
            ) from None
