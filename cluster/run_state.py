"""What the parts of a run share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.progress import Progress
from cluster.retries import LossBudget
from cluster.run_directory import RunDirectory
from cluster.samplers import SamplerPool
from cluster.summary import Tally
from wfr.config import Config
from wfr.metrics import RunMetrics

if TYPE_CHECKING:
    from cluster.topology import Topology


class RunState:
    """One run: what it was told, what it runs on, what it has counted.

    Attributes:
        pool: the samplers that are up.
        version: of the weights that are in force in all of them.
        stop: set when the run is to end in order.
        learner_lost: set while the learner's ranks are to be started anew.
        budget: of lost processes.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        topology: Topology,
        progress: Progress,
        metrics: RunMetrics,
    ) -> None:
        """Nothing has happened yet."""
        self.config = config
        self.directory = directory
        self.topology = topology
        self.progress = progress
        self._metrics = metrics
        self.tally = Tally()
        self.version = 0
        self.stop = asyncio.Event()
        self.learner_lost = asyncio.Event()
        self.pool = SamplerPool(
            config.sampler.count, topology.start_sampler, topology.placing.release
        )
        self.budget = LossBudget(
            {
                "sampler": config.sampler.count,
                "worker": config.rollout.workers,
                "learner": 1,  # its ranks are lost together
            },
            config.supervision.retries,
        )

    @property
    def logs(self) -> str:
        """Where the processes write."""
        return str(self.directory.path / "logs")

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """The one way of a number into `metrics.jsonl` and to the exporter."""
        record = {"kind": kind, "time": time.time(), **values}
        self.directory.log(record)
        self._metrics.observe(record)
        self.progress.observe(record)
