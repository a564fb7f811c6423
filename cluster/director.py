"""The warm start of the tiny director: a process of its own, followed while it trains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.progress import Progress
from cluster.remote import Remote, host
from cluster.roles import HostedWarmstart
from wfr.config import Config


def start_warmstart(config: Config, run_dir: Path) -> Remote:
    """Start the process; it answers questions about its progress while it works."""
    environment = {"OMP_NUM_THREADS": str(config.warmstart.threads), "HF_HUB_OFFLINE": "1"}
    options = {"num_cpus": 0, "max_concurrency": 2, "runtime_env": {"env_vars": environment}}
    return host(HostedWarmstart, str(run_dir), options=options)


async def follow(warmstart: Remote, config: Config, out: Path, progress: Progress) -> Any:
    """Train the tiny director into `out` and show how it goes; returns the result record."""
    running = asyncio.ensure_future(warmstart.run(config, str(out)))
    try:
        while not running.done():
            step, loss = await warmstart.progress()
            progress.warmstart(step, config.warmstart.steps, loss)
            await asyncio.wait({running}, timeout=_EVERY_S)
        return running.result()
    finally:
        running.cancel()


_EVERY_S = 2.0
