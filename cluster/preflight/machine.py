"""Does the run fit this machine: memory, shared memory, disk, ports, sandbox."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from cluster.preflight.check import Check
from cluster.preflight.footprint import GIB, Footprint, available_memory, footprint, has_gpu
from wfr import sandbox
from wfr.config import Config


def machine_checks(config: Config) -> Iterator[Check]:
    """Look at this machine; where RAY_ADDRESS names a cluster, its nodes hold the processes."""
    if not os.environ.get("RAY_ADDRESS"):
        yield from _capacity_checks(config)
        if config.learner.attention == "flash":
            yield attention_check(gpu=has_gpu())
    yield from port_checks(config)
    yield sandbox_check(config)


def memory_check(available: int, need: Footprint) -> Check:
    """The processes fit into the memory that is available."""
    return Check(
        "memory",
        available >= need.memory,
        f"{available / GIB:.1f} GiB available, about {need.memory / GIB:.1f} GiB needed",
        "free memory, or lower sampler.count, sampler.kv_cache_gib, rollout.workers or "
        "learner.ranks",
    )


def shared_memory_check(free: int, need: Footprint) -> Check:
    """Ray's object store fits into shared memory; elsewhere it is slow."""
    return Check(
        "shared memory",
        free >= need.shared_memory,
        f"{free / GIB:.2f} GiB free in /dev/shm, about {need.shared_memory / GIB:.2f} GiB needed",
        "enlarge /dev/shm (in Docker: --shm-size), or lower buffer.max_lag or "
        "train.groups_per_batch",
    )


def disk_check(free: int, need: Footprint, directory: Path) -> Check:
    """Journal and checkpoints fit onto the disk."""
    return Check(
        "disk",
        free >= need.disk,
        f"{free / GIB:.1f} GiB free under {directory}, about {need.disk / GIB:.1f} GiB needed",
        "free space, choose another run.dir, or raise train.checkpoint_every",
    )


def attention_check(*, gpu: bool) -> Check:
    """Flash attention has a GPU to run on; the learner looks at its generation and the format."""
    return Check(
        "attention",
        gpu,
        f"learner.attention is flash, {'with' if gpu else 'without'} an NVIDIA GPU",
        "set learner.attention to sdpa",
    )


def port_checks(config: Config) -> Iterator[Check]:
    """Ports that the configuration fixes are free."""
    ports = {"weights.port": config.weights.port, "metrics.port": config.metrics.port}
    for key, port in ports.items():
        if port:
            yield port_check(key, port)


def port_check(key: str, port: int) -> Check:
    """A server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            fault = None
        except OSError as error:
            fault = error.strerror or str(error)
    return Check(
        f"port {key}",
        fault is None,
        f"port {port}: {fault or 'free'}",
        f"stop what uses it, or set {key} to another port (0: any free one)",
    )


def sandbox_check(config: Config) -> Check:
    """Code that a model wrote can be confined on this machine."""
    fault = sandbox.available(config.sandbox)
    return Check(
        "sandbox",
        fault is None,
        fault or "available",
        "install bubblewrap and allow unprivileged user namespaces",
    )


def _capacity_checks(config: Config) -> list[Check]:
    need = footprint(config, gpu=has_gpu())
    existing = next(
        p for p in (config.run_dir.resolve(), *config.run_dir.resolve().parents) if p.exists()
    )
    return [
        memory_check(available_memory(psutil.virtual_memory().available), need),
        shared_memory_check(shutil.disk_usage("/dev/shm").free, need),
        disk_check(shutil.disk_usage(existing).free, need, existing),
    ]
