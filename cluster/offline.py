"""An offline run: a learner alone, trained on what another run has recorded.

No sampler, no worker, no buffer. Given the directory of a run it repeats that run's batches in
order, which is how a step is debugged; given a journal alone it trains on what is there.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import ray

from cluster.failures import RunFailedError
from cluster.gang import LearnerLostError, together
from cluster.progress import Progress
from cluster.run_directory import RunDirectory
from cluster.samplers import gist
from cluster.topology import Topology
from wfr.protocols import PeerLostError
from wfr.recording import RecordedBatch


class OfflineRun:
    """One pass over recorded batches."""

    def __init__(
        self,
        directory: RunDirectory,
        topology: Topology,
        progress: Progress,
        batches: list[RecordedBatch],
    ) -> None:
        """Train on `batches` with the learner ranks of `topology`."""
        self._directory = directory
        self._topology = topology
        self._progress = progress
        self._batches = batches
        self._steps = 0
        self._stop = False

    def stop(self) -> None:
        """Finish the step under way, write a checkpoint, and end."""
        self._stop = True

    async def execute(self) -> dict[str, Any]:
        """Everything; returns the summary that is also written to `summary.json`.

        Raises:
            RunFailedError: with the reason.
        """
        started = time.monotonic()
        summary: dict[str, Any] = {"name": self._directory.path.name, "status": "failed"}
        try:
            await self._start()
            for batch in self._batches:
                if self._stop:
                    break
                await self._step(batch)
            await self._checkpoint()
            summary["status"] = "stopped" if self._stop else "done"
        except (LearnerLostError, PeerLostError, ValueError, FloatingPointError) as error:
            summary["reason"] = gist(error)
            raise RunFailedError(gist(error)) from error
        finally:
            summary |= {
                "offline": True,
                "steps": self._steps,
                "batches": len(self._batches),
                "max_lag_seen": max((b.max_lag for b in self._batches[: self._steps]), default=0),
                "wall_seconds": round(time.monotonic() - started, 1),
            }
            self._directory.write_json("summary.json", summary)
            await self._topology.shutdown()
        return summary

    async def _start(self) -> None:
        self._progress.phase(f"starting the learner, {len(self._batches)} recorded batches")
        await self._topology.find_director()
        await self._topology.start_ranks()
        await self._topology.warm_director(self._progress)
        await self._topology.load_learner(self._batches[0].version if self._batches else 0)
        self._progress.phase("training on the recording")

    async def _step(self, batch: RecordedBatch) -> None:
        refs = [ray.put(group.serialize()) for group in batch.groups]
        results = await together(self._topology.ranks, "step", batch.version, *refs)
        self._steps += 1
        metrics = results[0]
        self._directory.log(
            {
                "kind": "step",
                "time": time.time(),
                "step": self._steps,
                "version": batch.version + 1,
                **metrics,
                "lag/max": batch.max_lag,
                "groups": [_number_or_name(group) for group in batch.groups],
            }
        )
        self._progress.note(
            f"step {self._steps}/{len(self._batches)}  reward {metrics['reward/mean']:+.2f}  "
            f"{metrics['learner/step_seconds']:.2f} s"
        )

    async def _checkpoint(self) -> None:
        version = self._batches[0].version + self._steps if self._batches else 0
        target = self._directory.checkpoint(version)
        state = {"run": self._directory.path.name, "steps": self._steps, "offline": True}
        await together(self._topology.ranks, "save", str(target), state)
        self._progress.note(f"checkpoint {target}")


def _number_or_name(group: pa.RecordBatch) -> int | str:
    """Of a group: runs count theirs, a service names them."""
    name = str(group.column("group_id")[0].as_py())
    return int(name) if name.isdigit() else name
