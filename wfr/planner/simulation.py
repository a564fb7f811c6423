"""The simulation: events in the order of their times, one per turn and operator call.

What is simulated is the loop of `cluster.run`: a slot is admitted, its siblings sample a turn, wait
for an operator, sample the next one ...; the finished group waits until the buffer makes a batch of
it; the learner trains; the weights are published, for which samplers hold still; the slots are free
again. A turn is sampled by an engine that shares its speed among its requests
(`wfr.planner.samplers`), the batches are made by the rules of the real buffer (`wfr.selection`).
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from wfr.planner.groups import Groups, Played
from wfr.planner.learner import Learner
from wfr.planner.operators import Operators
from wfr.planner.outcome import Outcome
from wfr.planner.samplers import Samplers
from wfr.planner.scenario import Scenario
from wfr.planner.workload import Assumed, Turns, Workload


def workload_of(scenario: Scenario, workload: Workload | None = None) -> Workload:
    """The given one, or else the scenario's assumptions.

    Raises:
        ValueError: there is neither.
    """
    if workload is not None:
        return workload
    if scenario.episodes is None:
        raise ValueError(
            f"scenario {scenario.name!r} has no section `episodes`, which says what episodes are "
            "like; write one, or give a recorded run"
        )
    return Assumed(scenario.episodes, scenario.operators)


class _Episode:
    """One that is being played: its group, its engine, and where it is."""

    __slots__ = ("engine", "group", "since", "turn", "turns")

    def __init__(self, group: Played, turns: Turns, engine: int) -> None:
        self.group = group
        self.turns = turns
        self.engine = engine
        self.turn = 0
        self.since = 0.0


class Simulation:
    """One run of a scenario; use it once."""

    def __init__(self, scenario: Scenario, workload: Workload | None = None, seed: int = 1) -> None:
        """Everything idle at time 0.

        Raises:
            ValueError: neither the scenario nor `workload` says what episodes are like.
        """
        training = scenario.training
        self._scenario = scenario
        rng = np.random.default_rng(seed)
        self._drawn = workload_of(scenario, workload).groups(rng, training.group_size)
        self._now = 0.0
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._samplers = Samplers(scenario.sampler, self._wake_sampler, self._turn_begins)
        self._learner = Learner(scenario.learner, self._wake_learner)
        self._operators = Operators(tuple(scenario.operators.values()))
        self._groups = Groups(training)
        self._publishing = False
        self._slows = scenario.shared.sampler_speed < 1 or scenario.shared.learner_speed < 1
        self._lags: Counter[int] = Counter()
        self._waits = {"place": 0.0, "sampling": 0.0, "operator place": 0.0, "operator": 0.0}
        self._waits["own"] = 0.0
        self._tokens = 0.0
        self._trajectories = 0

    def run(
        self, *, seconds: float = float("inf"), steps: int = 0, warmup_steps: int | None = None
    ) -> Outcome:
        """Simulate until so many simulated seconds or published steps after the warm-up.

        Args:
            seconds: simulated time, the warm-up included.
            steps: published steps after the warm-up; 0: as many as there are in `seconds`.
            warmup_steps: steps that are not measured; none: until the buffer is in its rhythm,
                which takes max_lag + 1 of them, but no more than a quarter of `seconds`.

        Raises:
            ValueError: neither bound is given.
        """
        if not steps and seconds == float("inf"):
            raise ValueError("a simulation needs `seconds` or `steps`, or it never ends")
        lag = self._scenario.training.max_lag
        warm = lag + 1 if warmup_steps is None else warmup_steps
        self._admit()
        self._until(lambda: self._groups.version >= warm, seconds if not warm else seconds / 4)
        before = self._reading()
        first = self._groups.version
        self._until(lambda: bool(steps) and self._groups.version >= first + steps, seconds)
        return self._outcome(before, self._reading())

    def _until(self, enough: Callable[[], bool], seconds: float) -> None:
        events = self._events
        version = -1
        while events and events[0][0] <= seconds:
            if self._groups.version != version:
                version = self._groups.version
                if enough():
                    return
            self._now, _, what, arguments = heapq.heappop(events)
            what(*arguments)
            if self._slows:
                self._share()
        if enough():
            return
        if seconds < float("inf"):
            self._now = max(self._now, seconds)

    def _at(self, time: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what, arguments))

    # ---- episodes

    def _admit(self) -> None:
        """Fill all free slots."""
        while self._groups.free:
            drawn = next(self._drawn)
            flat = drawn.flat and self._scenario.learner.skips_flat
            tokens = 0.0 if flat else sum(turns.length for turns in drawn.siblings)
            group = self._groups.admit(len(drawn.siblings), tokens)
            for turns in drawn.siblings:
                self._ask(_Episode(group, turns, self._samplers.assign()))

    def _ask(self, episode: _Episode) -> None:
        """Ask for the next turn."""
        turn, turns = episode.turn, episode.turns
        episode.since = self._now
        request = (
            *(episode.group.number, next(self._numbers)),
            *(turns.reads[turn], turns.tokens[turn], episode),
        )
        self._samplers.submit(episode.engine, request, self._now)

    def _turn_begins(self, episode: _Episode, now: float) -> None:
        self._waits["place"] += now - episode.since
        episode.since = now
        episode.group.versions.append(self._groups.version)

    def _wake_sampler(self, time: float, engine: int, stamp: int) -> None:
        self._at(time, self._turn_may_end, engine, stamp)

    def _turn_may_end(self, engine: int, stamp: int) -> None:
        episode = self._samplers.ended(engine, stamp, self._now)
        if episode is not None:
            self._turn_ends(episode)

    def _turn_ends(self, episode: _Episode) -> None:
        now, turn, turns = self._now, episode.turn, episode.turns
        self._waits["sampling"] += now - episode.since
        self._tokens += turns.tokens[turn]
        episode.turn = turn + 1
        operator, latency, own = turns.operator[turn], turns.latency[turn], turns.own[turn]
        start = now
        if operator >= 0:
            start = self._operators.call(operator, latency, now)
            self._waits["operator place"] += start - now
        self._waits["operator"] += latency
        self._waits["own"] += own
        ended = start + latency + own
        then = self._ask if episode.turn < len(turns.tokens) else self._episode_ends
        if ended > now:
            self._at(ended, then, episode)
        else:
            then(episode)

    def _episode_ends(self, episode: _Episode) -> None:
        self._samplers.release(episode.engine)
        self._trajectories += 1
        group = episode.group
        group.left -= 1
        if not group.left:
            self._groups.finish(group)
            if self._learner.phase == "groups":
                self._take()

    # ---- training

    def _take(self) -> None:
        """Let the learner go on if there is a batch for it."""
        batch = self._groups.take()
        if batch is None:
            return
        consuming = self._groups.consuming - 1
        for group in batch:
            self._lags.update(consuming - version for version in group.versions)
        self._learner.train(sum(group.trained_tokens for group in batch), self._now)
        if self._scenario.training.stragglers == "drop":
            self._admit()

    def _wake_learner(self, time: float, stamp: int) -> None:
        self._at(time, self._step_may_end, stamp)

    def _step_may_end(self, stamp: int) -> None:
        if self._learner.ended(stamp):
            self._learner.enter("publish", self._now)
            if not self._publishing:
                self._publish()

    def _publish(self) -> None:
        """Send the weights that were just made."""
        plan = self._scenario.publish
        self._publishing = True
        if plan.pause_s:
            self._at(self._now + plan.seconds - plan.pause_s, self._hold)
        self._at(self._now + plan.seconds, self._published)
        if plan.overlap:
            self._next_batch()

    def _hold(self) -> None:
        self._samplers.hold(self._now)

    def _published(self) -> None:
        self._publishing = False
        self._groups.publish()
        if self._scenario.publish.pause_s:
            self._samplers.go_on(self._now)
        self._admit()
        if self._learner.phase == "publish":
            if self._scenario.publish.overlap:
                self._publish()
            else:
                self._next_batch()
        elif self._learner.phase == "groups":
            self._take()

    def _next_batch(self) -> None:
        self._learner.enter("groups", self._now)
        self._take()

    # ---- processors that samplers and learner share

    def _share(self) -> None:
        """Slow both down while both work."""
        shared, samplers = self._scenario.shared, self._samplers
        trains = self._learner.phase == "train"
        busy = samplers.busy / samplers.count
        self._learner.set_speed(1 - (1 - shared.learner_speed) * busy, self._now)
        samplers.set_speed(shared.sampler_speed if trains else 1.0, self._now)

    # ---- figures

    def _reading(self) -> dict[str, Any]:
        """All counters as of now."""
        self._samplers.settle(self._now)
        self._learner.settle(self._now)
        return {
            "seconds": self._now,
            "steps": self._groups.version,
            "tokens": self._tokens,
            "trajectories": self._trajectories,
            "lags": Counter(self._lags),
            "learner": dict(self._learner.seconds),
            "samplers": dict(self._samplers.seconds),
            "requests": self._samplers.request_seconds,
            "episodes": dict(self._waits),
            "operators": list(self._operators.busy_seconds),
            "usd": self._operators.usd,
            "discarded": self._groups.discarded,
        }

    def _outcome(self, before: dict[str, Any], after: dict[str, Any]) -> Outcome:
        def grown(key: str) -> Any:
            return after[key] - before[key]

        seconds = grown("seconds")
        plans = self._scenario.operators
        used = {
            name: (b - a) / seconds / (plan.places or 1)
            for (name, plan), a, b in zip(
                plans.items(), before["operators"], after["operators"], strict=True
            )
        }
        gpu = self._scenario.gpu
        return Outcome(
            seconds=seconds,
            steps=grown("steps"),
            trajectories=grown("trajectories"),
            policy_tokens=grown("tokens"),
            turn_lags=dict(sorted((after["lags"] - before["lags"]).items())),
            learner=_shares(before["learner"], after["learner"]),
            samplers=_shares(before["samplers"], after["samplers"]),
            episodes=_shares(before["episodes"], after["episodes"]),
            operators=used,
            requests=grown("requests") / seconds / self._samplers.count,
            discarded_groups=grown("discarded"),
            usd_per_hour=gpu.count * gpu.usd_per_hour + 3600 * grown("usd") / seconds,
            events=next(self._numbers),
        )


def _shares(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    grown = {phase: after[phase] - before[phase] for phase in after}
    total = sum(grown.values())
    return {phase: value / total if total else 0.0 for phase, value in grown.items()}
