"""The run directory: what a run leaves on disk, and who may write there."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wfr.config import Config

CONTENT = (
    "config.json",
    "metrics.jsonl",
    "tensorboard",
    "wandb",
    "mlflow.db",
    "summary.json",
    "report.html",
    "inspector.duckdb",
    "inspector.duckdb.wal",
    "inspector.duckdb.tmp",
    "executors.json",
    "cache",
    "journal",
    "refused",
    "ledger",
    "turns",
    "checkpoints",
    "spill",
    "logs",
    "base",
)


class RunDirectory:
    """`runs/<name>/`: `config.json`, `journal/`, `metrics.jsonl`, `checkpoints/` and the rest."""

    def __init__(self, config: Config, *, overwrite: bool = False, resume: bool = False) -> None:
        """Create the directory and save the resolved configuration; `resume` keeps what is there.

        Raises:
            FileExistsError: it already holds a run, and `overwrite` was not asked for.
        """
        self.path = config.run_dir.resolve()
        held = [name for name in CONTENT if (self.path / name).exists()]
        if resume:
            self._tidy()
        elif held and not overwrite:
            raise FileExistsError(
                f"{self.path} already holds a run ({', '.join(held)}); choose another run.name or "
                "pass --overwrite"
            )
        for name in held if not resume else ():
            _remove(self.path / name)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("journal", "checkpoints", "logs"):
            (self.path / name).mkdir(exist_ok=True)
        self.write_json("config.json", config.model_dump(mode="json"))
        self._listeners: list[Callable[[Mapping[str, Any]], None]] = []
        self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")

    def _tidy(self) -> None:
        """Remove what a crash left half done: a line of metrics, a checkpoint."""
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            whole = metrics.read_bytes().rfind(b"\n") + 1
            os.truncate(metrics, whole)
        for path in (self.path / "checkpoints").glob(".*"):
            _remove(path)

    def follow(self, listener: Callable[[Mapping[str, Any]], None]) -> None:
        """Give `listener` every record that is logged from now on."""
        self._listeners.append(listener)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; it is on disk when this returns."""
        self._metrics.write(json.dumps(strict(record), allow_nan=False) + "\n")
        self._metrics.flush()
        for listener in self._listeners:
            listener(record)

    def write_json(self, name: str, content: Mapping[str, Any] | Sequence[Any]) -> None:
        """Write a file that appears whole or not at all."""
        temporary = self.path / f".{name}.tmp-{os.getpid()}"
        text = json.dumps(strict(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.rename(self.path / name)

    def checkpoint(self, version: int) -> Path:
        """Where the checkpoint of `version` belongs."""
        return self.path / "checkpoints" / str(version)

    def prefer(self, version: int) -> None:
        """Let `checkpoints/best` lead to the checkpoint of `version`, if there is one."""
        if not self.checkpoint(version).is_dir():
            return
        link = self.path / "checkpoints" / "best"
        fresh = link.with_name(".best")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(str(version))
        fresh.replace(link)

    def close(self) -> None:
        """Close the open file."""
        self._metrics.close()


def strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: what is not a number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
