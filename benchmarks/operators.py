"""Executor requests with cache and single flight ÷ without, on a recorded run with G = 8 siblings.

The recording (`record_calls`) holds, for every fourth group of a whole canvas quickstart (40 steps,
temperature 1), the executor calls of each episode in order, as hashes of what the cache's key
covers. Episodes of a group play at once, eight groups at a time, each waiting for one reply before
its next call; the executor answers after a moment. Both sides make the same calls.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Result, at_most, figure, interleave
from wfr.backends.base import Completion, OperatorRequest
from wfr.backends.cache import Cache
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub
from wfr.config import parse_config

_RECORDING = Path(__file__).parent / "recordings" / "canvas_quickstart.jsonl.gz"
_GROUPS_AT_ONCE = 8
_USD = 0.001

Episode = Sequence[tuple[str, str]]
"""Operator and hash of each call."""


class Prompt:
    """An executor that answers after a moment."""

    name = "prompt"
    identity = {"model": "recorded"}  # noqa: RUF012 - plain data that nobody changes

    async def complete(self, request: OperatorRequest) -> Completion:
        """Answer."""
        await asyncio.sleep(0.002)
        return Completion("x", 100, 20, cost_usd=_USD)


def run(quick: bool) -> Result:
    """Replay the recording."""
    groups = list(_groups())[: 10 if quick else None]
    calls = sum(len(episode) for group in groups for episode in group)
    with tempfile.TemporaryDirectory() as directory:
        numbers = itertools.count()

        def played(*, cached: bool) -> float:
            return asyncio.run(_play(groups, Path(directory) / str(next(numbers)), cached=cached))

        samples = interleave(
            {"with": lambda: played(cached=True), "without": lambda: played(cached=False)},
            repeats=1 if quick else 3,
            warmup=0,
        )
    shares = [a / b for a, b in zip(samples["with"], samples["without"], strict=True)]
    return Result(
        [
            figure(
                "requests with cache and single flight ÷ without",
                shares,
                "×",
                at_most(0.6),
            )
        ],
        setup={
            "recording": _RECORDING.name,
            "groups": len(groups),
            "episodes": sum(map(len, groups)),
            "calls": calls,
        },
        notes=["cost falls by the same share: every request of the recording costs the same"],
    )


def _groups() -> Iterator[list[Episode]]:
    with gzip.open(_RECORDING, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for _, group in itertools.groupby(rows, key=lambda row: row[0]):
        yield [[(operator, key) for operator, key in calls] for _, _, calls in group]


async def _play(groups: Sequence[Sequence[Episode]], directory: Path, *, cached: bool) -> float:
    """Requests that reach the executor."""
    main = {"kind": "custom", "target": f"{__name__}:Prompt", "limits": {"concurrency": 10_000}}
    section = {"backend": "main", "backends": {"main": main}, "cache": {"enabled": cached}}
    config = parse_config({"executor": section}).executor
    hub = Hub(config, Cache(config.cache, directory) if cached else None)
    executors = Executors(config, hub)
    places = asyncio.Semaphore(_GROUPS_AT_ONCE)

    async def episode(calls: Episode) -> None:
        for operator, key in calls:
            await executors.complete(OperatorRequest(operator, {"key": (key,)}, key))

    async def group(episodes: Sequence[Episode]) -> None:
        async with places:
            await asyncio.gather(*map(episode, episodes))

    await asyncio.gather(*map(group, groups))
    await executors.close()
    requests = sum(row["requests"] for row in hub.status()["usage"])
    hub.close()
    return float(requests)
