"""Sweeps: the same scenario with one thing changed, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from wfr.planner.outcome import Outcome
from wfr.planner.scenario import Scenario

Simulate = Callable[[Scenario], Outcome]


def lags(
    scenario: Scenario, simulate: Simulate, values: Iterable[int] = (0, 1, 2, 4, 8)
) -> Iterator[tuple[int, Outcome]]:
    """What each `max_lag` does."""
    for value in values:
        training = scenario.training.model_copy(update={"max_lag": value})
        yield value, simulate(scenario.model_copy(update={"training": training}))


def splits(scenario: Scenario, simulate: Simulate, points: int = 9) -> dict[int, Outcome]:
    """Outcomes by the number of samplers, all other GPUs being the learner's; in rising order.

    First over the whole range, then around the best, until `points` are simulated or none is left.
    Numbers are multiples of a 64th of the range, so that large systems stay divisible.

    Raises:
        ValueError: there are not GPUs enough for one sampler and a learner.
    """
    most = (scenario.gpu.count - 1) // scenario.sampler.gpus
    if most < 1:
        raise ValueError(
            f"gpu.count={scenario.gpu.count} leaves nothing to split: one sampler takes "
            f"{scenario.sampler.gpus} and the learner at least 1"
        )
    grain = 1 << max(0, (most // _GRAINS).bit_length() - 1)
    tried: dict[int, Outcome] = {}
    for share in _COARSE:
        count = max(1, round(most * share / grain)) * grain
        if count <= most and count not in tried:
            tried[count] = simulate(split(scenario, count))
    while len(tried) < points:
        middle = _between(tried, most, grain)
        if middle is None:
            break
        tried[middle] = simulate(split(scenario, middle))
    return dict(sorted(tried.items()))


def split(scenario: Scenario, samplers: int) -> Scenario:
    """The scenario with so many samplers, and the learner on all other GPUs."""
    rest = scenario.gpu.count - samplers * scenario.sampler.gpus
    assert rest > 0, f"{samplers} samplers leave no GPU to the learner"
    return scenario.model_copy(
        update={
            "sampler": scenario.sampler.model_copy(update={"count": samplers}),
            "learner": scenario.learner.model_copy(update={"gpus": rest}),
        }
    )


def best(found: dict[int, Outcome]) -> int:
    """The number of samplers with most steps per hour, the fewest of equals."""
    return max(found, key=lambda count: (found[count].steps_per_hour, -count))


def _between(found: dict[int, Outcome], most: int, grain: int) -> int | None:
    """A number of samplers in the middle of the wider gap beside the best, if there is one."""
    top = best(found)
    below = max((count for count in found if count < top), default=0)
    above = min((count for count in found if count > top), default=most + 1)
    gaps = sorted(((below, top), (top, above)), key=lambda gap: gap[0] - gap[1])
    for low, high in gaps:
        middle = (low + high) // (2 * grain) * grain
        if low < middle < high:
            return middle
    return None


_COARSE = (0.15, 0.35, 0.55, 0.75, 0.95)
_GRAINS = 64
