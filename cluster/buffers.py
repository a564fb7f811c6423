"""Buffers: the shards of the replay buffer as a configuration wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.hand_over import HostedBuffer
from cluster.remote import Remote, host
from wfr.config import Config
from wfr.recovery import ledger_path
from wfr.selection import Rules
from wfr.shards import shares


def rules(config: Config, groups_per_batch: int) -> Rules:
    """The rules of a buffer that gives so many groups to every batch."""
    settings, objective = config.buffer, config.objective
    batches = objective.max_resamples if objective.zero_variance == "resample" else 0
    return Rules(
        settings.max_lag,
        groups_per_batch,
        window=settings.window,
        stragglers=settings.stragglers,
        priority=settings.priority,
        incomplete=settings.incomplete_groups,
        min_scored=settings.min_scored,
        uses=settings.uses,
        resamples=batches * groups_per_batch,
    )


def start_buffer(config: Config, run_dir: Path, options: dict[str, Any]) -> list[Remote]:
    """Start every shard; a single one is the whole buffer."""
    settings = config.buffer
    parts = shares(config.train.groups_per_batch, settings.shards)
    return [
        host(
            HostedBuffer,
            rules(config, part),
            {
                "shard": shard,
                "shards": len(parts),
                "memory_bytes": (settings.memory_mib << 20) // len(parts),
            },
            str(run_dir / "spill" / str(shard)),
            str(ledger_path(run_dir, shard)),
            config.journal.fsync,
            options=options,
        )
        for shard, part in enumerate(parts)
    ]
