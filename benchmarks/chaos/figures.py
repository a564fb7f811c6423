"""What a chaos run took: how long after a fault its run was whole again, or took the next step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.chaos.schedule import Fault

Records = Sequence[Mapping[str, Any]]


def next_steps(records: Records, times: Iterable[float]) -> list[float]:
    """Seconds from each of `times` to the next published step; times after the last are left out.

    `records` are those of `metrics.jsonl`.
    """
    steps = [record["time"] for record in records if record["kind"] == "step"]
    after = ((time, next((step for step in steps if step > time), None)) for time in times)
    return [step - time for time, step in after if step is not None]


def beyond_start(records: Records, times: Iterable[float]) -> list[float]:
    """Seconds from the loss of a sampler to its successor's joining, less those its engine took.

    `times` are those of the losses; one whose successor never joined is left out.
    """
    joined = [
        (record["time"] - record["sampler/join_seconds"] - start, record["time"], start)
        for record in records
        if record["kind"] == "sampler_joined"
        for start in (record["sampler/start_seconds"],)
    ]
    found = []
    for lost in times:
        after = next((each for each in joined if each[0] >= lost), None)
        if after is not None:
            joined.remove(after)
            found.append(after[1] - lost - after[2])
    return found


def times_of(records: Records, kind: str) -> list[float]:
    """When records of a kind were written."""
    return [record["time"] for record in records if record["kind"] == kind]


def killed(done: Iterable[tuple[float, Fault]], *roles: str) -> list[float]:
    """When processes of these roles were killed."""
    return [at for at, fault in done if fault.what == "kill" and fault.whom in roles]


def much_less(em: float, undisturbed: float, tasks: int) -> bool:
    """Whether an exact match is below another by more than three standard errors.

    `tasks` is how many each was measured on. That two runs of one configuration learn differently
    comes on top, so this is strict.
    """
    deviation = math.sqrt(sum(each * (1 - each) / tasks for each in (em, undisturbed)))
    return undisturbed - em > 3 * deviation


def told(seconds: Sequence[float]) -> str:
    """Median and largest, for people."""
    if not seconds:
        return "none"
    median = statistics.median(seconds)
    return f"median {median:.1f} s, longest {max(seconds):.1f} s, of {len(seconds)}"
