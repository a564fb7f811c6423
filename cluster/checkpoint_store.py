"""A second place for checkpoints, at any URL that fsspec knows: S3, GCS, NFS, memory.

Checkpoints are written to the run directory first and copied from there by the driver, so training
waits for the disk alone and a store that is slow or out of reach costs nothing but its copy. The
copy of version v is `<url>/<run.name>/<v>/`. Object stores cannot rename, so `whole.json`, which
lists all files with their sizes, is written last and deleted first: without it there is no copy.

Besides the checkpoint it holds what else a run goes on with when its directory is gone: ledger,
metrics and configuration as they were at that version. The journal is not copied. So groups that
waited are lost with it and booked as damaged; the run goes on at v, and because nothing sampled by
a later version is left, no label of a token becomes wrong.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from wfr.checkpoint_directory import force_all
from wfr.compaction import COMPACTED
from wfr.history import History, read_history
from wfr.line_log import LineLog
from wfr.recovery import ledger_path


class StoreError(RuntimeError):
    """A URL that cannot be used; the text says why, `remedy` what to do."""

    def __init__(self, text: str, remedy: str) -> None:
        """Say what is wrong and what to do about it."""
        super().__init__(text)
        self.remedy = remedy


@dataclasses.dataclass(frozen=True, slots=True)
class Edges:
    """How long the run's files were when a checkpoint was taken: bytes by path in the run."""

    sizes: Mapping[str, int]

    @classmethod
    def of(cls, run_dir: Path) -> Edges:
        """Of the run's files now; the ledger has to be forced."""
        found = [*(run_dir / "ledger").glob("*.jsonl"), run_dir / "metrics.jsonl"]
        return cls({str(p.relative_to(run_dir)): p.stat().st_size for p in found if p.exists()})


class CheckpointStore:
    """Copies of one run's checkpoints under a URL."""

    def __init__(self, url: str, run: str) -> None:
        """Of the run named `run`; nothing is asked of the store yet.

        Raises:
            StoreError: no such protocol, or what it takes is not installed.
        """
        protocol = url.partition("://")[0] if "://" in url else "file"
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise StoreError(f"{url}: {error}", _driver(protocol)) from None
        except ValueError as error:
            remedy = "use file, s3, gcs, abfs, or another protocol of fsspec's"
            raise StoreError(f"{url}: {error}", remedy) from None
        self.url = f"{url.rstrip('/')}/{run}"
        self._root = PurePosixPath(root) / run

    def probe(self) -> None:
        """Write something, read it and delete it; raises StoreError."""
        path = str(self._root / ".probe")
        try:
            self._files.makedirs(str(self._root), exist_ok=True)
            self._files.pipe_file(path, b"wfr")
            found = self._files.cat_file(path)
            self._files.rm_file(path)
        except Exception as error:  # noqa: BLE001 - each driver has errors of its own
            raise StoreError(
                f"{self.url}: cannot be written: {type(error).__name__}: {error}",
                "look at the address, and at the credentials that the driver's environment holds",
            ) from None
        if found != b"wfr":
            raise StoreError(f"{self.url}: gives back other bytes than it got", "use another one")

    def versions(self) -> list[int]:
        """Versions with a whole copy, ascending."""
        self._files.invalidate_cache()
        found = self._files.glob(str(self._root / "*" / _WHOLE))
        names = [PurePosixPath(path).parent.name for path in found]
        return sorted(int(name) for name in names if name.isdigit())

    def copy(self, run_dir: Path, version: int, edges: Edges) -> None:
        """Copy the checkpoint of `version`, and the run's files up to their `edges`.

        Raises:
            Exception: whatever the driver of the store raises; there is no copy then.
        """
        place = self._root / str(version)
        checkpoint = run_dir / "checkpoints" / str(version)
        sizes: dict[str, int] = {}
        for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
            name = f"checkpoint/{path.relative_to(checkpoint)}"
            self._put(path, place / name)
            sizes[name] = path.stat().st_size
        for name, size in edges.sizes.items():
            with (run_dir / name).open("rb") as file:
                self._pipe(place / "run" / name, file.read(size))
            sizes[f"run/{name}"] = size
        for path in _constant(run_dir):
            name = f"run/{path.relative_to(run_dir)}"
            self._put(path, place / name)
            sizes[name] = path.stat().st_size
        self._pipe(place / _WHOLE, json.dumps({"files": sizes}, indent=2).encode())

    def keep(self, versions: Iterable[int]) -> None:
        """Delete all other copies."""
        for version in set(self.versions()) - set(versions):
            self._files.rm_file(str(self._root / str(version) / _WHOLE))
            self._files.rm(str(self._root / str(version)), recursive=True)

    def fetch(self, run_dir: Path, version: int, max_lag: int, shards: int) -> None:
        """Put the copy of `version` into a run directory that holds no run.

        What the ledger says came in, and is not here, is booked as deleted on purpose.

        Raises:
            StoreError: a file of the copy is not as it was written.
        """
        place = self._root / str(version)
        about: dict[str, Any] = json.loads(self._files.cat_file(str(place / _WHOLE)))
        fetched = run_dir / ".fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        for name, size in about["files"].items():
            target = fetched / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(str(place / name), str(target))
            if target.stat().st_size != size:
                raise StoreError(
                    f"{self.url}/{version}/{name}: has {target.stat().st_size} bytes of {size}",
                    f"delete {self.url}/{version} and resume from the copy before it",
                )
        _without_journal(fetched / "run", max_lag, shards)
        force_all(fetched)
        (run_dir / "checkpoints").mkdir(exist_ok=True)
        (fetched / "checkpoint").rename(run_dir / "checkpoints" / str(version))
        ledger = fetched / "run" / "ledger"
        for path in sorted((fetched / "run").iterdir()):
            if path != ledger:
                path.rename(run_dir / path.name)
        ledger.rename(run_dir / "ledger")  # last: with it, the directory holds a run
        shutil.rmtree(fetched)

    def _put(self, source: Path, target: PurePosixPath) -> None:
        self._files.makedirs(str(target.parent), exist_ok=True)
        self._files.put_file(str(source), str(target))

    def _pipe(self, target: PurePosixPath, data: bytes) -> None:
        self._files.makedirs(str(target.parent), exist_ok=True)
        self._files.pipe_file(str(target), data)


def _without_journal(run_dir: Path, max_lag: int, shards: int) -> None:
    """Book that the journal up to here is gone, so that an audit does not look for it."""
    groups: list[int] = []
    for shard in range(shards):
        history = History(max_lag, shard, shards)
        read_history(ledger_path(run_dir, shard), history)
        done = history.in_state("used", "dropped")
        groups += [group for group in done if history.groups[group].meta is not None]
    log = LineLog(run_dir / "ledger" / COMPACTED)
    log.append({"file": "journal", "groups": groups})
    log.force()
    log.close()


def _constant(run_dir: Path) -> list[Path]:
    """Files that do not grow: the configuration, and the director that a tiny run began with."""
    base = run_dir / "base"
    found = [run_dir / "config.json", run_dir / "executors.json", *base.rglob("*")]
    return sorted(path for path in found if path.is_file())


def _driver(protocol: str) -> str:
    package = {"s3": "s3fs", "gcs": "gcsfs", "gs": "gcsfs", "abfs": "adlfs"}.get(protocol)
    named = f"`pip install {package}`" if package else "install fsspec's driver for it"
    return f"{named} where the run's driver lives"


_WHOLE = "whole.json"
