"""The report of a step: the record that `metrics.jsonl`, the exporter and people get."""

from __future__ import annotations

import asyncio
from collections import Counter

from cluster.crew import Crew
from cluster.fleet import Fleet
from cluster.run_state import RunState
from cluster.training import Step


class StepReport:
    """Collects the numbers of all roles."""

    def __init__(self, state: RunState, fleet: Fleet, crew: Crew) -> None:
        """Of this run."""
        self._state = state
        self._fleet = fleet
        self._crew = crew

    async def __call__(self, step: Step, publish_s: float, loop: dict[str, float]) -> None:
        """Write what is known of a published step."""
        buffer, lags = self._state.topology.buffer, step.lags
        ledger, slots, memory, spent, episodes = await asyncio.gather(
            *(buffer.ledger(), buffer.gauges(), buffer.memory()),
            *(self._crew.time_spent(), self._crew.episode_counts()),
        )
        values = {
            "step": step.number,
            "version": step.batch.version + 1,
            **step.metrics,
            "lag/max": max(lags),
            "lag/mean": sum(lags) / len(lags),
            "lag/histogram": dict(sorted(Counter(lags).items())),
            "publish/seconds": publish_s,
            "publish/phases": self._fleet.phases,
            "wait/learner_seconds": self._state.tally.learner_wait_seconds,
            "seconds/training_loop": loop,
            "seconds/workers": spent,
            **episodes,
            "tokens/generated": ledger.generated,
            "tokens/consumed": ledger.consumed,
            "tokens/discarded": dict(ledger.discarded),
            "tokens/waiting": ledger.waiting,
            "tokens/replayed": ledger.replayed,
            "buffer/resident_bytes": memory.resident,
            "buffer/spilled_bytes": memory.spilled,
            "buffer/spilled_groups": memory.spilled_groups,
            "buffer/spill_failures": memory.failures,
            "groups": [entry.group_id for entry in step.batch.entries],
            "groups/replayed": [entry.group_id for entry in step.batch.replayed],
            **{f"slots/{state}": count for state, count in slots.items() if state != "version"},
        }
        self._state.record("step", values)
        self._state.progress.step(values, self._state.config.train.steps)
