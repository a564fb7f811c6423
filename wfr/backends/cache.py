"""Replies on disk: content-addressed, shared by all workers, bounded, safe against crashes.

It is diskcache's, because SQLite gives what is needed and nothing to administer: writes that are
there wholly or not at all, any number of processes, a size bound with eviction. (LMDB is faster,
but maps a file of fixed size and evicts nothing; and a hit saves seconds of a language model.)
Entries are JSON texts inside the database, never pickles: a cache that somebody gives you is data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diskcache

from wfr.backends.base import BackendConfigError, Completion, OperatorRequest
from wfr.executor_config import CacheConfig

_LOG = logging.getLogger(__name__)
_INLINE = 1 << 30
"""Entries of any size stay in the database: one write, one thing that a crash can interrupt."""
_FAULTS = (sqlite3.Error, diskcache.Timeout, OSError)


def cache_key(request: OperatorRequest, identity: Mapping[str, Any]) -> str:
    """SHA-256 over the operator, prompt, inputs, parameters and the backend's identity."""
    content = {"request": request_fields(request), "backend": identity}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def request_fields(request: OperatorRequest) -> dict[str, Any]:
    """The request as plain values."""
    fields = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
    return {**fields, "inputs": {name: list(texts) for name, texts in request.inputs.items()}}


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A request and its reply."""

    request: Mapping[str, Any]
    completion: Completion

    def text(self) -> str:
        """As JSON."""
        return json.dumps(
            {"request": dict(self.request), "completion": dataclasses.asdict(self.completion)},
            ensure_ascii=True,
        )

    @classmethod
    def of(cls, text: str) -> Entry:
        """The entry of `text()`; raises ValueError for anything else."""
        try:
            values = json.loads(text)
            return cls(values["request"], Completion(**values["completion"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an entry of an executor cache: {error!r}") from None


class Cache:
    """Entries by key. A fault of the disk costs a hit, never the run."""

    def __init__(self, config: CacheConfig, directory: Path) -> None:
        """Open or create the directory.

        Raises:
            BackendConfigError: there is nothing to read, or it is no cache.
        """
        self._directory = directory
        self._writable = not config.read_only
        self.errors = 0
        try:
            if config.read_only:
                self._read_only = _open_read_only(directory)
            else:
                self._disk = diskcache.Cache(
                    str(directory),
                    size_limit=config.size_mib << 20,
                    disk_min_file_size=_INLINE,
                    eviction_policy="least-recently-stored",
                )
        except _FAULTS as error:
            raise BackendConfigError(
                f"executor.cache.dir={str(directory)!r} cannot be opened as a cache: {error}; "
                "remove the directory or name another"
            ) from None

    def get(self, key: str) -> Entry | None:
        """The entry, or nothing."""
        try:
            text = self._disk.get(key) if self._writable else self._select(key)
            return None if text is None else Entry.of(text)
        except (*_FAULTS, ValueError) as error:
            self._note(error)
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry; ignored where the cache is read only."""
        if not self._writable:
            return
        try:
            self._disk.set(key, entry.text())
        except _FAULTS as error:
            self._note(error)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """All entries, ordered by key."""
        keys = (
            sorted(self._disk)
            if self._writable
            else [row[0] for row in self._read_only.execute("SELECT key FROM Cache ORDER BY key")]
        )
        for key in keys:
            entry = self.get(key)
            if entry is not None:
                yield key, entry

    def bytes(self) -> int:
        """Size on disk."""
        return int(self._disk.volume()) if self._writable else 0

    def close(self) -> None:
        """Close the database."""
        if self._writable:
            self._disk.close()
        else:
            self._read_only.close()

    def _select(self, key: str) -> Any:
        found = self._read_only.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
        return found and found[0]

    def _note(self, error: BaseException) -> None:
        if self.errors == 0:
            _LOG.warning("executor cache %s: %s; going on without", self._directory, error)
        self.errors += 1


def _open_read_only(directory: Path) -> sqlite3.Connection:
    """By hand, because diskcache writes to the database just to open it."""
    log = directory / "cache.db-wal"
    if log.exists() and log.stat().st_size:
        raise OSError(f"{log.name} holds entries that were never merged: open it once for writing")
    address = f"file:{directory / 'cache.db'}?mode=ro&immutable=1"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    with contextlib.closing(connection.execute("SELECT key, value FROM Cache LIMIT 1")) as rows:
        rows.fetchone()
    return connection
