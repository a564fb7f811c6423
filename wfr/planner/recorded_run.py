"""A recorded run: what its journal and its metrics say of episodes and of when who worked.

The journal has no time for each turn, but one for each operator call: an episode is sampled from
its start, or the end of a call, to the start of the next call, or its end. Turns without a call (a
warning came back at once) are one stretch with the next. The worker's own work on a turn is a part
of these stretches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wfr.advantage import is_flat
from wfr.config import ConfigError
from wfr.planner.scenario import OperatorPlan
from wfr.planner.workload import Drawn, Turns
from wfr.recording import read_batches
from wfr.report.run_files import RunFiles
from wfr.schema import from_batch
from wfr.trajectory import Trajectory


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """An episode was sampled from `begin` to `end` (seconds since the epoch) without a pause."""

    begin: float
    end: float
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, and when the learner worked on it (seconds since the epoch)."""

    begin: float
    end: float
    tokens: int
    groups: int
    publish_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedRun:
    """One run directory, read once.

    Attributes:
        path: where it is.
        config: what it was told, as it was saved.
        groups: of each its trajectories, those that the world failed left out.
        steps: published ones in order.
    """

    path: Path
    config: Mapping[str, Any]
    groups: Mapping[str, list[Trajectory]]
    steps: list[Step]

    @classmethod
    def read(cls, path: str | Path) -> RecordedRun:
        """Read a run directory.

        Raises:
            ConfigError: it holds no run, no finished group, or no step.
        """
        path = Path(path)
        try:
            files = RunFiles.read(path)
        except FileNotFoundError as error:
            raise ConfigError(f"--journal {error}") from None
        journal = path / "journal"
        batches = read_batches(journal) if journal.is_dir() and any(journal.iterdir()) else ()
        groups = {group.group_id: group.scored for group in map(from_batch, batches)}
        groups = {name: scored for name, scored in groups.items() if scored}
        if not groups or not files.steps:
            raise ConfigError(
                f"--journal {path}: {len(groups)} finished groups and {len(files.steps)} steps are "
                "recorded there; a planner needs some of both"
            )
        drops = files.config.get("objective", {}).get("zero_variance") == "drop"
        lengths = {name: _trained(scored, drops=drops) for name, scored in groups.items()}
        steps = [_step(record, lengths) for record in files.steps]
        return cls(path, files.config, groups, steps)

    @property
    def pace(self) -> float:
        """Steps per hour after the first, which pays for what happens once."""
        first, last = (step.end + step.publish_s for step in (self.steps[0], self.steps[-1]))
        return 3600 * (len(self.steps) - 1) / (last - first)

    def stretches(self) -> list[Stretch]:
        """When which episode was sampled, of all groups."""
        return [
            stretch
            for scored in self.groups.values()
            for trajectory in scored
            for stretch in _stretches(trajectory)
        ]

    def calls(self, operator: str) -> list[tuple[float, float]]:
        """Begin and end of all calls of an operator."""
        return [
            (call.ended_at - call.seconds, call.ended_at)
            for scored in self.groups.values()
            for trajectory in scored
            for call in trajectory.operator_calls
            if call.operator == operator and call.ended_at
        ]

    def setting(self, key: str) -> Any:
        """A value of its configuration, for example `buffer.max_lag`."""
        value: Any = self.config
        for part in key.split("."):
            value = value[part]
        return value


class Recorded:
    """Episodes as they were recorded: groups are drawn with replacement, then siblings in them.

    Siblings share a task, so that their lengths go together; this is kept. Operators that a
    scenario names get its latencies, the others keep those that were recorded.
    """

    def __init__(
        self, runs: list[RecordedRun], operators: Mapping[str, OperatorPlan] | None = None
    ) -> None:
        """Draw from the groups of all `runs`."""
        self._operators = operators or {}
        self._index = {name: index for index, name in enumerate(self._operators)}
        self._groups = [
            ([self._turns(trajectory) for trajectory in scored], [t.reward for t in scored])
            for run in runs
            for scored in run.groups.values()
        ]

    def groups(self, rng: np.random.Generator, group_size: int) -> Iterator[Drawn]:
        """Groups without end."""
        plans = tuple(self._operators.values())
        while True:
            played, rewards = self._groups[rng.integers(len(self._groups))]
            chosen = rng.integers(len(played), size=group_size)
            flat = is_flat(np.array([rewards[index] for index in chosen]))
            yield Drawn([_late(played[index], plans, rng) for index in chosen], flat)

    def _turns(self, trajectory: Trajectory) -> Turns:
        turns = trajectory.turns
        starts = [0, *(turn.end for turn in turns)]
        latency = [0.0] * len(turns)
        for call in trajectory.operator_calls:
            if 0 <= call.turn < len(turns):
                latency[call.turn] += call.seconds
        return Turns(
            reads=[float(turn.start - start) for turn, start in zip(turns, starts, strict=False)],
            tokens=[float(len(turn)) for turn in turns],
            latency=latency,
            own=[0.0] * len(turns),
            operator=[self._index.get(turn.operator, -1) for turn in turns],
        )


def _late(turns: Turns, plans: tuple[OperatorPlan, ...], rng: np.random.Generator) -> Turns:
    """The turns with fresh latencies of the operators that have a plan."""
    if not plans:
        return turns
    latency = [
        float(plans[operator].latency_s.draw(rng, 1)[0]) if operator >= 0 else seconds
        for operator, seconds in zip(turns.operator, turns.latency, strict=True)
    ]
    return dataclasses.replace(turns, latency=latency)


def _trained(scored: list[Trajectory], *, drops: bool) -> int:
    """Tokens that a step on this group takes."""
    flat = drops and is_flat(np.array([trajectory.reward for trajectory in scored]))
    return 0 if flat else sum(len(trajectory.tokens) for trajectory in scored)


def _step(record: Mapping[str, Any], lengths: Mapping[str, int]) -> Step:
    names = [str(name) for name in record["groups"]]
    end = record["time"] - record["publish/seconds"]
    tokens = sum(lengths.get(name, 0) for name in names)
    begin = end - record["learner/step_seconds"]
    return Step(begin, end, tokens, len(names), record["publish/seconds"])


def _stretches(trajectory: Trajectory) -> Iterator[Stretch]:
    begin, tokens = trajectory.started_at, 0
    calls: dict[int, list[tuple[float, float]]] = {}
    for call in trajectory.operator_calls:
        if call.ended_at and call.turn >= 0:
            span = (call.ended_at - call.seconds, call.ended_at)
            calls.setdefault(call.turn, []).append(span)
    for index, turn in enumerate(trajectory.turns):
        tokens += len(turn)
        if index in calls:
            yield Stretch(begin, min(start for start, _ in calls[index]), tokens)
            begin, tokens = max(end for _, end in calls[index]), 0
    if tokens:
        yield Stretch(begin, trajectory.finished_at, tokens)
