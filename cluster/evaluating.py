"""Evaluating: before, beside and after training, and which version was the best."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from cluster.evaluation import score
from cluster.run_state import RunState
from cluster.spare_evaluation import SpareEvaluations
from wfr.best import Best


class Evaluating:
    """Lets the workers play held-out tasks.

    Attributes:
        spare: the evaluations beside training.
        gave_up: why the run ends early; empty where it does not.
    """

    def __init__(self, state: RunState, written: Callable[[], Awaitable[None]]) -> None:
        """`written` waits until the checkpoint that is being written is there, or lost."""
        self._state = state
        self._written = written
        self._best = Best(state.config.best)
        self.spare = SpareEvaluations(self._play_spare, self._evaluated, state.progress.note)
        self.gave_up = ""

    @property
    def undecided(self) -> set[int]:
        """Versions that may yet turn out the best."""
        version = self.spare.version
        return set() if version is None else {version}

    def observe(self, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Take in what was found earlier."""
        for evaluation in evaluations:
            self._best.observe(evaluation)

    async def evaluate(self, label: str) -> dict[str, Any]:
        """Play all held-out tasks, greedily; `label` is before or after."""
        self._state.progress.phase(f"evaluating {label} training, greedy, held-out tasks")
        shares = len(self._state.topology.workers)
        parts = await asyncio.gather(
            *(worker.evaluate(i, shares) for i, worker in enumerate(self._state.topology.workers))
        )
        result = score([episode for part in parts for episode in part])
        self._state.record("eval", {"version": self._state.version, **result})
        self._state.progress.evaluated(label, result)
        return result

    async def beside(self) -> None:
        """Begin an evaluation beside training."""
        self.spare.begin(self._state.version)

    async def _play_spare(self) -> dict[str, Any]:
        """Play the held-out tasks, behind all that is trained on."""
        workers = list(self._state.topology.workers)
        places = max(1, self._state.config.evaluation.concurrency // len(workers))
        parts = await asyncio.gather(
            *(worker.evaluate(i, len(workers), spare=places) for i, worker in enumerate(workers))
        )
        return score([episode for part in parts for episode in part])

    async def _evaluated(self, version: int, result: dict[str, Any]) -> None:
        """Book an evaluation beside training, which began at `version`."""
        evaluation = {"version": version, "last_version": self._state.version, **result}
        self._state.record("eval", evaluation)
        self._state.progress.evaluated(f"at version {version} of", result)
        await self.prefer(evaluation)
        if why := self._best.given_up:
            self.gave_up = why
            self._state.progress.note(f"ending early: {why}")
            self._state.stop.set()

    async def prefer(self, evaluation: Mapping[str, Any]) -> None:
        """Let `checkpoints/best` be the best version's."""
        if self._best.observe(evaluation):
            await self._written()  # it may be the best version's
            await asyncio.to_thread(self._state.directory.prefer, self._best.version)

    def chosen(self) -> dict[str, Any]:
        """What the summary says of the best version."""
        chosen: dict[str, Any] = {}
        if self._state.config.best.score is not None:
            chosen = {"best_version": self._best.version, "best_score": self._best.score}
        if self.gave_up:
            chosen["ended_early"] = self.gave_up
        return chosen | {"evaluations_left_out": self.spare.skipped}
