"""A service around scripted directors, for tests of `cluster.serving`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading

import httpx
import uvicorn

from cluster.serving.api import build
from cluster.serving.directors import Directors
from cluster.serving.neutral import Neutral
from cluster.serving.player import Player, Ungraded
from cluster.serving.registry import Registry
from cluster.serving.release import Release
from cluster.serving.service import Service
from wfr.config import parse_config
from wfr.environments.registry import make_factory
from wfr.tasks.registry import make_source
from wfr.testing import FakeDirector, FakeRenderer

SEARCH = "<think>look</think><tool>Search: Danube</tool>"
ANSWER = "<think>so</think><answer>Berlin</answer>"


def turns(*texts):
    """A script that gives these turns, over and over, by how far the episode is."""
    ids = [FakeRenderer.ids(text) for text in texts]

    def reply(request):
        done = "".join(map(chr, request.tokens)).count(FakeRenderer.OPEN) - 1
        return ids[min(done, len(ids) - 1)]

    return reply


def configured(environment=None, **serving):
    """A configuration with a pool that needs nothing."""
    think_act = {
        "prompt": "question",
        "pool": ["Search"],
        "max_response_tokens": 4000,
        "max_turn_tokens": 500,
        "search": {"top_k": 1, "style": "text"},
    }
    return parse_config(
        {
            "model": {"max_length": 8000},
            "tasks": {"format": "lookup_world", "eval_tasks": 6},
            "environment": environment or think_act,
            "serving": serving,
        }
    )


@dataclasses.dataclass
class Served:
    """What a test steers and looks at."""

    service: Service
    directors: list[FakeDirector]
    application: object
    registry: Registry
    log: list[str]

    @property
    def director(self):
        return self.directors[0]

    def lines(self):
        """The access log."""
        return [json.loads(line) for line in self.log if line.startswith("{")]

    def client(self, **kwargs):
        transport = httpx.ASGITransport(self.application, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://wfr", **kwargs)


@contextlib.asynccontextmanager
async def served(*script, config=None, keys=None, flywheel=None, registry=None, replica="0"):
    """A service; its first director replays `script`, which by default searches and answers."""
    config = config or configured()
    log, started = [], []
    factory = make_factory(config, make_source(config), grader=Ungraded())
    player = Player(config, factory, FakeRenderer(), Neutral(["<|im_end|>", FakeRenderer.EOS]))
    scripts = script or (turns(SEARCH, ANSWER),)

    async def start(path, version):
        started.append(FakeDirector(*scripts, version=version))
        return started[-1]

    directors = Directors(Release(7, config.serving.canary), start)
    await directors.begin("unused")
    registry = registry or Registry(config.serving.keep, config.serving.keep_s)
    service = Service(
        *(config, directors, player, registry),
        flywheel=flywheel,
        replica=replica,
        log=log.append,
    )
    running = asyncio.create_task(service.run())
    try:
        yield Served(service, started, build(service, keys), registry, log)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await factory.close()


def sse(text):
    """Names and data of a stream of events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in lines:
            found.append((lines.get("event"), json.loads(lines["data"])))
    return found


@contextlib.contextmanager
def listening(*script, **kwargs):
    """The same service on a port of its own, in a thread; yields its URL and the `Served`."""
    ready, stop, found = threading.Event(), threading.Event(), {}

    async def main():
        async with served(*script, **kwargs) as one:
            config = uvicorn.Config(one.application, port=0, log_level="error", lifespan="off")
            server = uvicorn.Server(config)
            running = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            found.update(url=f"http://127.0.0.1:{port}", served=one)
            ready.set()
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await running

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(30)
        yield found["url"], found["served"]
    finally:
        stop.set()
        thread.join()
