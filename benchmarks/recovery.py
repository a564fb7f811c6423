"""How soon a run is whole again after the death of a sampler, the learner, a worker or the buffer.

Whole runs (Ray, vLLM, learner) on three raylets of this machine, of a tiny director that knows
nothing, with a checkpoint every 5 steps. One process after the other is killed by SIGKILL, and the
next one only when the run has long gone on. A sampler counts from its death until its successor has
joined, less what the successor's engine took to start; everybody else until the next step is
published. What a learner may take contains a checkpoint's interval, five steps at the pace that the
run had before.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos import figures
from benchmarks.chaos.schedule import Fault
from benchmarks.chaos.trial import MACHINES, SETTINGS, Outcome, on_machines, read
from benchmarks.harness import Figure, Result, at_most, figure

WHOM = ("engine", "learner", "sampler", "worker", "learner", "buffer")
"""Who is killed, in this order; an engine is the process that a sampler has for vLLM."""
APART_S = 45.0
_INTERVAL = 5
_CONFIG = """
model: {max_length: 512}
tasks: {eval_tasks: 12}
environment:
  prompt: question
  pool: [Search, Programmer]
  max_turns: 4
  max_response_tokens: 400
  max_turn_tokens: 24
  observation_chars: 300
  search: {style: text}
warmstart: {steps: 2, batch: 8}
rollout: {group_size: 4}
buffer: {max_lag: 2}
learner: {lr: 1.0e-5, max_tokens: 2048}
train: {groups_per_batch: 4, steps: 100000}
"""


def run(quick: bool) -> Result:
    """Kill each of `WHOM`, twice over; with `quick` the first two only."""
    whom = WHOM[:2] if quick else WHOM * 2
    schedule = [Fault(10 + APART_S * n, "kill", role, 0.5) for n, role in enumerate(whom)]
    with tempfile.TemporaryDirectory(prefix="wfr-recovery-") as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(_CONFIG)
        trial = on_machines(
            config,
            Path(directory) / "run",
            (f"train.checkpoint_every={_INTERVAL}", "metrics.port=0"),
            schedule,
            network=False,
            limit_s=400 + schedule[-1].at + 2 * APART_S,
            tell=_tell,
            rest_s=APART_S,
        )
        outcome = asyncio.run(trial)
        records = read(Path(directory) / "run")
    if outcome.wrong:
        raise RuntimeError("; ".join(outcome.wrong))
    return Result(
        _figures(records, outcome),
        setup={
            "raylets": 1 + MACHINES,
            "killed": ", ".join(whom),
            "seconds between two kills": APART_S,
            "settings": ", ".join(SETTINGS),
        },
    )


def _figures(records: figures.Records, outcome: Outcome) -> list[Figure]:
    killed = {role: figures.killed(outcome.done, role) for role in dict.fromkeys(WHOM)}
    steps = [at for at in figures.times_of(records, "step") if at < outcome.done[0][0]]
    interval = _INTERVAL * statistics.median(b - a for a, b in itertools.pairwise(steps))
    lost = sorted(killed["engine"] + killed["sampler"])
    starts = [r["sampler/start_seconds"] for r in records if r["kind"] == "sampler_joined"]
    found = [
        figure(
            "sampler killed to successor joined, less its engine's start",
            figures.beyond_start(records, lost),
            "s",
            at_most(15),
        ),
        figure("start of that engine", starts[-len(lost) :], "s"),
        figure(
            "learner killed to next step",
            figures.next_steps(records, killed["learner"]),
            "s",
            at_most(round(interval + 30, 1)),
            note=f"a checkpoint's interval of {interval:.1f} s, and 30",
        ),
    ]
    return found + [
        figure(f"{role} killed to next step", figures.next_steps(records, killed[role]), "s")
        for role in ("worker", "buffer")
        if killed[role]
    ]


def _tell(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
