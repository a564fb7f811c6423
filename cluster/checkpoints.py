"""Finding the checkpoint that a person means."""

from __future__ import annotations

from pathlib import Path

from wfr.config import ConfigError


def checkpoint_of(path: Path) -> Path:
    """A checkpoint's own directory, or the newest one of a run's directory.

    `runs/x/checkpoints/best` is the best one by `best.score`, where the run had it set.

    Raises:
        ConfigError: there is none.
    """
    if (path / "checkpoints").is_dir():
        versions = [p for p in (path / "checkpoints").iterdir() if p.name.isdigit()]
        if not versions:
            raise ConfigError(f"{path}: the run has not written a checkpoint yet")
        return max(versions, key=lambda version: int(version.name))
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"{path}: neither a run directory nor a checkpoint (config.json, weights)"
        )
    return path
