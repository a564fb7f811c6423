"""The inquiry: asks every loop and process of a run what it is doing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

from cluster.waiting import Phase, Snapshot
from wfr.backends.status import paused_backends

if TYPE_CHECKING:
    from cluster.remote import Remote
    from cluster.topology import Topology


async def inquire(
    topology: Topology,
    samplers: Mapping[str, Remote],
    loops: Mapping[str, Phase],
    silent: Mapping[str, float],
) -> Snapshot:
    """What is going on; `loops` are those of the run itself. Takes `_ANSWER_S` seconds at most."""
    workers = {f"worker-{i}": worker for i, worker in enumerate(topology.workers)}
    questions: dict[str, Awaitable[Any]] = {
        "slots": topology.buffer.gauges(),
        "disk": topology.buffer.disk_full(),
        "hub": topology.hub.status(),
        **{name: worker.activity() for name, worker in workers.items()},
        **{name: sampler.load() for name, sampler in samplers.items()},
    }
    found = await _answers(questions)
    return Snapshot(
        **loops,
        slots=found.get("slots"),
        workers={name: found.get(name) for name in workers},
        samplers={name: found.get(name) for name in samplers},
        silent=silent,
        executors=_executors(found.get("hub")),
        disk_full=bool(found.get("disk")),
    )


_ANSWER_S = 5.0


async def _answers(questions: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
    """Answers that come in time, by name; an error is none."""
    asked = {asyncio.ensure_future(question): name for name, question in questions.items()}
    done, late = await asyncio.wait(asked, timeout=_ANSWER_S)
    for question in late:
        question.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return {asked[q]: q.result() for q in done if not q.cancelled() and q.exception() is None}


def _executors(status: Mapping[str, Any] | None) -> str:
    if status is None:
        return "have not answered"
    if status["paused"]:
        return f"are not asked: {status['paused']} is reached"
    return f"are not asked: {'; '.join(down)}" if (down := paused_backends(status)) else ""
