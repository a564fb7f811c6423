"""Copying: checkpoints to their second place, one at a time, beside everything else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from cluster.checkpoint_store import CheckpointStore, Edges
from cluster.retention import chosen, kept
from wfr.checkpoint_config import CheckpointsConfig


class Copying:
    """Copies the newest checkpoint whenever the copy before is done.

    Training never waits for it. A checkpoint that a newer one overtakes is not copied; a copy that
    fails is reported, and the next checkpoint is copied all the same.
    """

    def __init__(
        self,
        store: CheckpointStore | None,
        run_dir: Path,
        policy: CheckpointsConfig,
        note: Callable[[str], None],
    ) -> None:
        """Copy to `store`, if there is one."""
        self._store = store
        self._run_dir = run_dir
        self._policy = policy
        self._note = note
        self._next: tuple[int, Edges] | None = None
        self._now: int | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def held(self) -> Collection[int]:
        """Versions that are not to be touched: being copied, or next."""
        waiting = self._next[0] if self._next else None
        return {version for version in (self._now, waiting) if version is not None}

    def offer(self, version: int, edges: Edges) -> None:
        """Copy this checkpoint, which is whole, as soon as it can be."""
        if self._store is None:
            return
        self._next = version, edges
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._copy_all(self._store))

    async def end(self, within_s: float) -> None:
        """Let what is offered be copied, if that does not take too long."""
        if self._task is None:
            return
        done, _ = await asyncio.wait({self._task}, timeout=within_s)
        if not done:
            self._note(f"a copy of checkpoint {self._now} is cut short after {within_s:g} s")
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _copy_all(self, store: CheckpointStore) -> None:
        while self._next is not None:
            (self._now, edges), self._next = self._next, None
            try:
                await asyncio.to_thread(self._copy, store, self._now, edges)
            except Exception as error:  # noqa: BLE001 - each driver has errors of its own
                self._note(
                    f"CHECKPOINT {self._now} IS NOT COPIED to {store.url}: "
                    f"{type(error).__name__}: {error}; it is in the run directory"
                )
            else:
                self._note(f"checkpoint {store.url}/{self._now}")
            finally:
                self._now = None

    def _copy(self, store: CheckpointStore, version: int, edges: Edges) -> None:
        store.copy(self._run_dir, version, edges)
        there = store.versions()
        store.keep(kept(there, self._policy, chosen(self._run_dir)))
