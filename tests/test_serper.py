"""Web search: a server with Serper's interface, well and misbehaving."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from wfr.backends.base import BackendConfigError
from wfr.backends.cache import Cache
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub
from wfr.config import ConfigError, parse_config
from wfr.executor_config import CacheConfig, ExecutorConfig
from wfr.operators.base import Scope
from wfr.operators.search import Search
from wfr.retrieval.memory_index import MemoryIndex
from wfr.search_config import SearchConfig
from wfr.tasks.source import Document
from wfr.trajectory import WorldFailureError

KEY = "s3cr3t-key"
FOUND = {
    "organic": [
        {"title": "Ada", "snippet": "a painter", "link": "https://a.example"},
        {"title": "Ben", "snippet": "a sailor"},
    ]
}


class Server:
    """Replies in turn, the last one for ever; keeps what it was asked."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.asked = []

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/search", self._search)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/search"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _search(self, request):
        self.asked.append((request.headers.get("X-API-KEY"), await request.json()))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, web.Response):
            return reply
        return web.json_response(reply)


def executor(url, **more):
    backend = {"kind": "serper", "base_url": url, "usd_per_search": 0.001, "retries": 2, **more}
    backend.setdefault("breaker", {"failures": 50, "pause_s": 0.01})
    return ExecutorConfig.model_validate(
        {"operators": {"Search": "web"}, "backends": {"web": backend}}
    )


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", KEY)


def searched(*queries, replies=(FOUND,), cache=None, config=None, **backend):
    """What the Search operator shows for each query, and the server's side of it."""

    async def main():
        async with Server(*replies) as server:
            settings = executor(server.url, **backend)
            executors = Executors(settings, Hub(settings, cache))
            search = Search(
                config or SearchConfig(engine="web", top_k=2), MemoryIndex(()), executors
            )
            try:
                outcomes = [await search.call(query, Scope("t")) for query in queries]
            finally:
                await executors.close()
            return outcomes, server

    return asyncio.run(main())


def test_the_web_looks_like_the_local_index():
    (outcome,), server = searched("who is ada")
    local = Search(
        SearchConfig(top_k=2),
        MemoryIndex([Document("Ada", "a painter ada"), Document("Ben", "a sailor")]),
    )
    shown = asyncio.run(local.call("who is ada", Scope("t"))).text
    assert outcome.text.splitlines()[0] == shown.splitlines()[0]
    assert outcome.text == (
        "Search results for 'who is ada':\n\n1. Title: Ada\nSnippet: a painter\n\n"
        "2. Title: Ben\nSnippet: a sailor"
    )
    assert server.asked == [(KEY, {"q": "who is ada", "num": 2})]
    assert (outcome.call.backend, outcome.call.cost_usd) == ("web", 0.001)


def test_answers_and_known_things_come_first():
    reply = {
        **FOUND,
        "answerBox": {"title": "Born", "answer": "1904"},
        "knowledgeGraph": {"title": "Ada", "description": "A painter."},
    }
    config = SearchConfig(engine="web", top_k=3, style="text")
    (outcome,), _ = searched("ada", replies=(reply,), config=config)
    assert outcome.text.splitlines() == ["1904", "A painter.", "a painter"]


@pytest.mark.parametrize("reply", [{"organic": []}, {"organic": None}])
def test_nothing_found(reply):
    (outcome,), _ = searched("zzz", replies=(reply,))
    assert outcome.text == "no results"


def test_a_search_is_paid_for_once(tmp_path):
    cache = Cache(CacheConfig(dir=str(tmp_path)), tmp_path)
    (one, two), server = searched("ada", "ada", cache=cache)
    assert len(server.asked) == 1
    assert (one.text, two.call.cache_hit, two.call.cost_usd) == (two.text, True, 0.0)


@pytest.mark.parametrize(
    "fault",
    [
        web.Response(status=429, headers={"Retry-After": "0"}),
        web.Response(status=500, text="oops"),
        web.Response(status=200, text="{"),
        web.Response(status=200, text="[]"),
        web.Response(status=200, text='{"searchParameters": {}}'),
    ],
    ids=["busy", "error", "truncated", "list", "schema"],
)
def test_faults_of_the_world_are_tried_again_and_never_shown(fault):
    (outcome,), server = searched("ada", replies=(fault, FOUND))
    assert "painter" in outcome.text
    assert len(server.asked) == 2


def test_a_server_that_stays_broken_sets_the_episode_aside():
    with pytest.raises(WorldFailureError, match="HTTP 500"):
        searched("ada", replies=(web.Response(status=500, text="oops"),), retries=0)


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "the key was refused"), (403, "the key was refused"), (404, "no such address")],
)
def test_a_wrong_key_or_address_ends_the_run_with_the_remedy(status, says):
    reply = web.Response(status=status, text=f"no: {KEY}")
    with pytest.raises(BackendConfigError, match=says) as error:
        searched("ada", replies=(reply,))
    assert KEY not in str(error.value)


def test_a_key_that_is_not_there_is_missed_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY")
    with pytest.raises(BackendConfigError, match="SERPER_API_KEY"):
        searched("ada")


def test_the_servers_echo_of_the_key_is_not_shown():
    reply = {"organic": [{"title": KEY, "snippet": f"your key is {KEY}"}]}
    (outcome,), _ = searched("ada", replies=(reply,))
    assert KEY not in outcome.text
    assert json.dumps(outcome.call.backend) == '"web"'


WEB = {"environment": {"search": {"engine": "web"}}}
SERPER = {"backends": {"web": {"kind": "serper"}}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (WEB, r"engine='web', but Search is carried out by executor backend 'rule_based'"),
        (
            {"executor": {**SERPER, "backend": "web"}},
            r"executor\.backend='web' is a web search.*operators\.Search",
        ),
        (
            {"environment": {"search": {"engine": "web", "corpus": "c.jsonl"}}},
            "engine='web' contradicts corpus='c.jsonl'",
        ),
    ],
)
def test_contradictions_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        parse_config(values)


def test_a_whole_configuration():
    config = parse_config({**WEB, "executor": {**SERPER, "operators": {"Search": "web"}}})
    assert config.executor.backends["web"].api_key_env == "SERPER_API_KEY"
    assert config.executor.used == ("rule_based", "web")
