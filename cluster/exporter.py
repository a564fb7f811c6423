"""The Prometheus exporter of a run: `/metrics` over HTTP, from the driver's process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from wfr.config import ConfigError, MetricsConfig


@contextlib.contextmanager
def exporter(config: MetricsConfig, registry: CollectorRegistry) -> Iterator[str | None]:
    """Serve `registry` while the block runs; yields `host:port`, None where no port is configured.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    if config.port is None:
        yield None
        return
    try:
        server, thread = start_http_server(config.port, addr=config.host, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"metrics.port={config.port} cannot be opened on metrics.host={config.host!r}: "
            f"{error.strerror or error}; stop what uses it, or set another port (0: any free one)"
        ) from error
    try:
        yield _address(config.host, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def announce(run_dir: Path, address: str) -> Path:
    """Write what Prometheus' `file_sd_configs` reads: where a run is scraped, and its label.

    It lies beside the runs in `.prometheus/RUN.json`, so that one pattern finds all of them;
    whoever announced a run removes the file with its exporter.
    """
    path = run_dir.parent / ".prometheus" / f"{run_dir.name}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    content = [{"targets": [address], "labels": {"run": run_dir.name}}]
    temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    temporary.rename(path)
    return path


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
