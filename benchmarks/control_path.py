"""What the control path costs at scale: 256 fake samplers, 20,000 concurrent episodes, 500 turns/s.

A cluster is simulated on this machine (`benchmarks.simulated_cluster`): fakes take the time of
engines, learner and operators, and compute nothing; between them are the real Ray actors, rollout
workers, routers, journals, replay buffer, training loop, publications and supervisor. All samplers
share 2 processes and all episodes 2 workers; router, supervisor and publisher see 256 handles, or
the first 16 of them.

Turns are offered in an open loop: operators answer at the moments of a Poisson process, however
late the system is. What is added to a turn is the time from such a moment until the next turn is
whole in the environment, less what its sampler took. Processor time is that of all processes:
driver, workers, samplers, buffer, learner, raylet. Sides take turns in one process tree: 256
samplers with and without supervision, 16, and what Ray takes alone: as many calls of the same
samplers from actors that do nothing else, while all episodes wait. Then few turns are
offered, and more until the median of what is added passes 50 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.harness import Figure, Result, at_least, at_most, figure, ratio
from benchmarks.simulated_cluster import Simulation, cpu_seconds
from benchmarks.simulated_roles import Scale
from cluster.launch import start_ray

_SATURATED_S = 0.05
_LEAD_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is offered, for how long, and how often.

    Attributes:
        few: samplers of the smaller side.
        rate: turns per second that all sides are offered.
        rates: what is offered after that, until the cluster is saturated.
        repeats: of each side.
        least_s: seconds for which one is measured, rounded up to whole batches.
    """

    few: int = 16
    rate: float = 500.0
    rates: tuple[float, ...] = (125, 250, 375, 500, 625, 750, 1000, 1250, 1500, 2000)
    repeats: int = 5
    least_s: float = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """What was seen of one side for some seconds.

    Attributes:
        rate: turns per second.
        added: seconds added to each turn that was offered.
        cpu: processor seconds per turn.
        episodes: under way at its end.
        questions: of supervision to all processes together, per turn.
    """

    rate: float
    added: np.ndarray
    cpu: float
    episodes: int
    questions: float = 0.0

    def ms(self, percentile: float) -> float:
        """Milliseconds that were added to a turn; NaN where there was none."""
        return float(1000 * np.percentile(self.added, percentile)) if len(self.added) else np.nan

    @property
    def saturated(self) -> bool:
        """Whether turns wait for their turn."""
        return not self.ms(50) <= 1000 * _SATURATED_S


def run(quick: bool) -> Result:
    """Simulate, small or whole, and measure."""
    scale, plan = Scale(samplers=256), Plan()
    if quick:
        scale = Scale(64, episodes=320, groups_per_batch=8, sampler_s=0.5, step_s=0.2)
        plan = Plan(rate=160.0, rates=(320.0,), repeats=1, least_s=1.0)
    # Ray's workers are nice, so whatever runs beside them would come first.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own name)
    start_ray()
    try:
        with tempfile.TemporaryDirectory(prefix="wfr-control-path-") as directory:
            sides, ladder = asyncio.run(_measure(Simulation("r", Path(directory), scale), plan))
    finally:
        ray.shutdown()
    return Result(
        _figures(scale, plan, sides, ladder),
        setup={
            **dataclasses.asdict(scale),
            **dataclasses.asdict(plan),
            "max_lag": scale.max_lag,
            "heartbeat_s": scale.config("r", Path()).supervision.heartbeat_s,
        },
        notes=[
            f"offered {offered:g} turns/s: {seen.rate:.0f} came through, {seen.ms(50):.1f} ms "
            f"(median) and {seen.ms(99):.0f} ms (p99) added, {1000 * seen.cpu:.2f} ms of processor "
            "time per turn"
            for offered, seen in ladder.items()
        ],
    )


async def _measure(
    simulation: Simulation, plan: Plan
) -> tuple[dict[str, list[Window]], dict[float, Window]]:
    sides: dict[str, Callable[[], Coroutine[Any, Any, Window]]] = {
        "many": lambda: _side(simulation, plan, simulation.scale.samplers),
        "bare": lambda: _side(simulation, plan, simulation.scale.samplers, supervised=False),
        "few": lambda: _side(simulation, plan, plan.few),
        "ray": lambda: _ray(simulation, plan),
    }
    found: dict[str, list[Window]] = {name: [] for name in sides}
    ladder: dict[float, Window] = {}
    async with simulation.running():
        await _side(simulation, plan, simulation.scale.samplers)  # is not counted
        for turn in range(plan.repeats):
            for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(await sides[name]())
        await simulation.show(simulation.scale.samplers)
        async with simulation.supervised():
            for offered in plan.rates:
                ladder[offered] = await _window(simulation, offered, plan.least_s)
                if ladder[offered].saturated:
                    break
    return found, ladder


async def _side(
    simulation: Simulation, plan: Plan, samplers: int, *, supervised: bool = True
) -> Window:
    await simulation.show(samplers)
    async with simulation.supervised() if supervised else contextlib.nullcontext():
        if supervised:  # at first it asks everybody
            await asyncio.sleep(2 * simulation.state.config.supervision.heartbeat_s)
        return await _window(simulation, plan.rate, plan.least_s)


async def _ray(simulation: Simulation, plan: Plan) -> Window:
    """What as many calls of Ray take that nothing stands around."""
    await simulation.pace(0.0)
    await simulation.show(simulation.scale.samplers)
    await simulation.bare(plan.rate, _LEAD_S)
    await simulation.drain()
    used, began = cpu_seconds(), time.perf_counter()
    added = await simulation.bare(plan.rate, plan.least_s)
    used, wall = cpu_seconds() - used, time.perf_counter() - began
    return Window(len(added) / wall, np.array(added), used / len(added), 0)


async def _window(simulation: Simulation, rate: float, least_s: float) -> Window:
    """Offer a rate, and measure once the turns of before have come through.

    Whole batches are measured, so that each window has its share of steps, publications, and of the
    new episodes that begin at once when slots are free again.
    """
    period = simulation.scale.period(rate)
    seconds = math.ceil(least_s / period) * period
    await simulation.pace(rate)
    await asyncio.sleep(simulation.scale.sampler_s + _LEAD_S)
    await simulation.drain()
    used, began = cpu_seconds(), time.perf_counter()
    asked = simulation.supervision.questions
    await asyncio.sleep(seconds)
    turns, added = await simulation.drain()
    used, wall = cpu_seconds() - used, time.perf_counter() - began
    waiting = await simulation.activity()
    episodes = sum(count for phase, count in waiting.items() if phase != "slot")
    asked = simulation.supervision.questions - asked
    turns = max(turns, 1)
    return Window(turns / wall, np.array(added), used / turns, episodes, asked / turns)


def _figures(
    scale: Scale,
    plan: Plan,
    sides: Mapping[str, Sequence[Window]],
    ladder: Mapping[float, Window],
) -> list[Figure]:
    many = sides["many"]
    cpu = {name: [1000 * seen.cpu for seen in windows] for name, windows in sides.items()}
    differ = [100 * (a / b - 1) for a, b in zip(cpu["many"], cpu["bare"], strict=True)]
    call = statistics.median(cpu["ray"])
    share = [100 * seen.questions * call / (1000 * seen.cpu) for seen in many]
    last = list(ladder)[-1]
    below = [offered for offered, seen in ladder.items() if not seen.saturated]
    return [
        figure("added to a turn, median", [seen.ms(50) for seen in many], "ms", at_most(5)),
        figure("added to a turn, p99", [seen.ms(99) for seen in many], "ms"),
        figure("added by Ray alone, median", [seen.ms(50) for seen in sides["ray"]], "ms"),
        figure(
            f"turns that came through, {plan.rate:g}/s offered",
            [seen.rate for seen in many],
            "/s",
            at_least(0.95 * plan.rate),
        ),
        figure("episodes at once", [seen.episodes for seen in many], target=at_least(20_000)),
        figure(f"processor time per turn, {scale.samplers} samplers", cpu["many"], "ms"),
        figure(f"processor time per turn, {plan.few} samplers", cpu["few"], "ms"),
        figure("processor time of a call of Ray alone", cpu["ray"], "ms"),
        ratio(
            f"processor time per turn, {scale.samplers} ÷ {plan.few} samplers",
            cpu["many"],
            cpu["few"],
            at_most(1.2),
        ),
        figure(
            "processor time of supervision's questions",
            share,
            "%",
            at_most(1),
            note="their number, and what Ray takes alone for a call",
        ),
        figure("processor time per turn with supervision, more than without", differ, "%"),
        figure(
            "highest rate offered before saturation",
            [max(below, default=plan.rate)],
            "/s",
            note=f"the median that is added passes {1000 * _SATURATED_S:g} ms at {last:g} turns/s"
            if ladder[last].saturated
            else "no higher one was offered",
        ),
    ]
