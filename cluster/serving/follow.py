"""Following a training run: its checkpoints, and the version that a person has pinned."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from cluster.retention import PIN
from cluster.serving.directors import Directors
from wfr.config import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version of a director on disk; where it is no run's, the version is 0."""

    path: Path
    version: int


def newest(run: Path) -> Checkpoint:
    """The newest checkpoint of a run; raises ConfigError where there is none."""
    found = _versions(run)
    if not found:
        raise ConfigError(f"{run}: the run has not written a checkpoint yet")
    return found[max(found)]


def chosen(path: Path) -> Checkpoint:
    """The checkpoint that `--policy` means: its own directory, or the newest of a run.

    Raises:
        ConfigError: there is none.
    """
    if (path / "checkpoints").is_dir():
        return newest(path)
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise ConfigError(
            f"{path}: neither a run directory nor a checkpoint (config.json, weights)"
        )
    return Checkpoint(path, int(path.name) if path.name.isdigit() else 0)


def pin(run: Path, version: int | None) -> None:
    """Let `version` alone answer, or (None) the newest again; raises ConfigError.

    Services that follow the run heed it at their next look.
    """
    if version is None:
        (run / PIN).unlink(missing_ok=True)
        return
    if version not in _versions(run):
        known = ", ".join(map(str, sorted(_versions(run)))) or "none"
        raise ConfigError(f"{run}: no checkpoint of version {version}; there is {known}")
    temporary = run / f".{PIN}.tmp"
    temporary.write_text(f"{version}\n", encoding="utf-8")
    temporary.replace(run / PIN)


class Follower:
    """Looks for newer checkpoints of a run and offers them."""

    def __init__(self, run: Path, directors: Directors, log: Callable[[str], None]) -> None:
        """`log` gets what is done."""
        self._run = run
        self._directors = directors
        self._log = log
        self._failed: set[int] = set()

    async def run(self, every_s: float) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(every_s)

    async def look(self) -> None:
        """Once; a checkpoint whose engine does not start is not tried again."""
        found, release = _versions(self._run), self._directors.release
        wanted = self._pinned()
        if wanted is None:
            release.unpin()
            version = max(found, default=-1)
            if release.may_offer(version) and version not in self._failed:
                await self._try(version, self._directors.offer(found[version].path, version))
        elif wanted != release.pinned and wanted in found and wanted not in self._failed:
            await self._try(wanted, self._directors.pin(found[wanted].path, wanted))

    async def _try(self, version: int, starting: object) -> None:
        try:
            await starting  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - of vLLM anything; what answers goes on
            self._failed.add(version)
            self._log(f"version {version} does not start: {error}")
        else:
            release = self._directors.release
            role = "canary" if release.canary == version else "in force"
            self._log(f"version {version} is up: {role}")

    def _pinned(self) -> int | None:
        try:
            return int((self._run / PIN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _versions(run: Path) -> dict[int, Checkpoint]:
    try:
        paths = [path for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    except OSError:
        return {}
    return {int(path.name): Checkpoint(path, int(path.name)) for path in paths}
