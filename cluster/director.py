"""The director a run starts from: a given checkpoint, or the tiny one, built and warm-started."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from cluster.progress import Progress
from cluster.remote import Remote, host
from cluster.roles import HostedWarmstart
from wfr.config import Config


async def prepare_director(config: Config, base: Path, progress: Progress) -> Path:
    """The directory of the checkpoint to start from; builds the tiny director in `base`."""
    if config.model.path is not None:
        return Path(config.model.path).resolve()
    environment = {"OMP_NUM_THREADS": str(config.warmstart.threads), "HF_HUB_OFFLINE": "1"}
    options = {"num_cpus": 0, "max_concurrency": 2, "runtime_env": {"env_vars": environment}}
    warmstart = host(HostedWarmstart, str(base.parent), options=options)
    result = await _followed(warmstart, config, base, progress)
    progress.note(f"warm start: {result}")
    warmstart.kill()
    return base


async def _followed(warmstart: Remote, config: Config, base: Path, progress: Progress) -> Any:
    running = asyncio.ensure_future(warmstart.run(config, str(base)))
    while not running.done():
        step, loss = await warmstart.progress()
        progress.warmstart(step, config.warmstart.steps, loss)
        await asyncio.wait({running}, timeout=_EVERY_S)
    return running.result()


_EVERY_S = 2.0
