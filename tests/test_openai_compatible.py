"""The OpenAI-compatible backend against a server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter

import pytest
from faulty_server import FaultyServer

from actors.rollout import EpisodeId, Limits, Rollout
from wfr.backends.base import BackendConfigError, OperatorRequest
from wfr.backends.cache import Cache
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub
from wfr.config import parse_config
from wfr.environments.registry import make_factory
from wfr.executor_config import PRESETS, CacheConfig
from wfr.journal import Journal
from wfr.schema import to_batch
from wfr.tasks.registry import make_source
from wfr.testing import FakeRenderer, FakeSampler
from wfr.trajectory import Group, WorldFailureError

KEY = "sk-planted-0123456789"


def ask(prompt="q", operator="AnswerGenerate", **fields):
    return OperatorRequest(operator, {"content": (prompt,)}, prompt, **fields)


def executor(url, *, cache=None, **backend):
    main = {"kind": "openai_compatible", "base_url": url, "model": "m", "timeout_s": 30, **backend}
    hasty = {**main, "timeout_s": 3}
    backends = {"main": main, "hasty": hasty}
    values = {
        "backend": "main",
        "operators": {"Review": "hasty"},
        "backends": backends,
        "cache": cache or {"enabled": False},
    }
    return parse_config({"executor": values}).executor


def served(work, **backend):
    """`work(executors, server, hub)` with a fresh server."""

    async def running():
        async with FaultyServer() as server:
            config = executor(server.url, **backend)
            hub = Hub(config)
            executors = Executors(config, hub)
            try:
                async with asyncio.timeout(60):
                    return await work(executors, server, hub)
            finally:
                await executors.close()

    return asyncio.run(running())


def test_a_request_and_its_reply():
    async def work(executors, server, hub):
        return await executors.complete(ask("hello \ud800", max_tokens=9)), server

    reply, server = served(
        work, temperature=0.2, top_p=0.9, extra_body={"seed": 3}, price={"prompt_usd": 1e6}
    )
    assert reply.text == "<think>t</think><answer>yes</answer>"
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd) == (20, 7, 20)
    assert (reply.backend, reply.status) == ("main", "ok")
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello ?"}],
            "temperature": 0.2,
            "top_p": 0.9,
            "max_tokens": 9,
            "seed": 3,
        }
    ]


PASSING = [
    *("busy", "busy_silent", "error500", "overloaded", "truncated", "short", "closed", "garbage"),
    *("schema", "empty_choices", "list", "null", "number", "binary", "echo_error"),
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_survived(fault):
    async def work(executors, server, hub):
        reply = await executors.complete(ask(f"fault {fault} 1"))
        await executors._reporter.flush()
        return reply, server, hub._usage.total()

    reply, server, usage = served(work)
    assert reply.text.endswith("<answer>yes</answer>")
    assert len(server.requests) == usage.requests == 2
    assert (usage.failed, server.faults[fault], server.answered) == (1, 1, 1)


@pytest.mark.engine  # for its time
@pytest.mark.parametrize("fault", ["drip", "hang"])
def test_a_reply_that_never_ends_is_given_up(fault):
    async def work(executors, server, hub):
        with pytest.raises(WorldFailureError, match=r"no reply within 1 s"):
            await executors.complete(ask(f"fault {fault} 9"))
        return server, hub._gates["main"].in_flight

    server, in_flight = served(work, timeout_s=1, retries=1)
    assert 1 <= server.faults[fault] <= 2  # on a loaded machine an attempt may not get there
    assert in_flight == 0


@pytest.mark.parametrize("fault", ["error500", "schema", "truncated", "closed"])
def test_a_lasting_fault_sets_the_episode_aside(fault):
    async def work(executors, server, hub):
        with pytest.raises(WorldFailureError, match="failed 2 times on AnswerGenerate"):
            await executors.complete(ask(f"fault {fault} 99"))
        return server

    assert len(served(work, retries=1).requests) == 2


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ("refusal", "refused", "I cannot help with that."),
        ("filtered", "refused", "content filter"),
        ("too_long", "too_long", "too long"),
        ("cut", "cut", "<think>on and on"),
    ],
)
def test_what_is_the_operators_business_is_no_fault(fault, status, text):
    async def work(executors, server, hub):
        return await executors.complete(ask(f"fault {fault} 9")), server

    reply, server = served(work)
    assert reply.status == status
    assert text in reply.text
    assert len(server.requests) == 1


def test_a_request_that_nobody_would_take_is_not_repeated():
    async def work(executors, server, hub):
        with pytest.raises(WorldFailureError, match=r"HTTP 400: .*cannot parse that"):
            await executors.complete(ask("fault rejected 9"))
        return server

    assert len(served(work).requests) == 1


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("unauthorized", r"HTTP 401.*Remedy: the key was refused; check api_key_env"),
        ("no_model", r"model 'm' at http.*HTTP 404.*Remedy: there is no such model"),
        ("no_credit", r"HTTP 429.*Remedy: the account is out of credit"),
        ("redirect", r"HTTP 307.*Remedy: it redirects"),
    ],
)
def test_a_wrong_configuration_stops_at_once_with_the_remedy(fault, remedy):
    async def work(executors, server, hub):
        with pytest.raises(BackendConfigError, match=remedy):
            await executors.complete(ask(f"fault {fault} 9"))
        return server

    assert len(served(work).requests) == 1


def test_a_model_that_has_answered_before_is_only_away():
    async def work(executors, server, hub):
        await executors.complete(ask())
        return await executors.complete(ask("fault no_model 1"))

    assert served(work).status == "ok"


def test_a_server_that_is_not_there():
    async def work():
        config = executor("http://127.0.0.1:9/v1", retries=1)
        executors = Executors(config, Hub(config))
        with pytest.raises(WorldFailureError, match=r"failed 2 times.*no reply: "):
            await executors.complete(ask())
        faults = await executors.check()
        await executors.close()
        return faults

    assert "no reply" in asyncio.run(work())["main"]


def test_retry_after_is_kept_by_all():
    async def work(executors, server, hub):
        started = time.monotonic()
        await executors.complete(ask("fault busy 1"))
        return time.monotonic() - started

    assert served(work) >= 0.05


@pytest.mark.engine  # for its time
def test_all_faults_at_once():
    """Every call is answered or set aside, nothing hangs, and both sides count the same."""
    faults = [*PASSING, "refusal", "cut"]
    prompts = [f"n{n} fault {faults[n % len(faults)]} {n % 3}" for n in range(180)]

    async def work(executors, server, hub):
        calls = [executors.complete(ask(prompt)) for prompt in prompts]
        calls += [executors.complete(ask(f"{n} fault drip 1", "Review")) for n in range(4)]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        await executors._reporter.flush()
        return replies, server, hub

    replies, server, hub = served(work, limits={"concurrency": 16}, breaker={"failures": 1000})
    kinds = Counter(
        type(reply).__name__ if isinstance(reply, Exception) else reply.status for reply in replies
    )
    usage = hub._usage.total()
    assert kinds.keys() <= {"ok", "refused", "cut", "WorldFailureError"}
    assert usage.calls == len(prompts) + 4 == kinds.total()
    assert usage.requests == len(server.requests) == server.answered + server.faults.total()
    assert usage.set_aside == kinds["WorldFailureError"]
    told = server.faults["refusal"] + server.faults["cut"]
    assert usage.failed == server.faults.total() - told
    assert usage.prompt_tokens == 20 * (server.answered + told)
    assert server.most_in_flight <= 16 + 4
    assert hub._gates["main"].in_flight == hub._gates["main"].waiting == 0


def test_while_the_server_is_down_everybody_waits():
    async def work(executors, server, hub):
        server.down = True
        calls = [asyncio.ensure_future(executors.complete(ask(str(n)))) for n in range(50)]
        while hub._gates["main"].breaker.openings == 0:
            await asyncio.sleep(0.01)
        before = len(server.requests)
        assert hub.status()["backends"]["main"]["circuit"] != "closed"
        await asyncio.sleep(0.5)
        probes = len(server.requests) - before
        server.down = False
        return await asyncio.gather(*calls), probes

    replies, probes = served(
        work,
        limits={"concurrency": 4},
        breaker={"failures": 4, "pause_s": 0.1, "longest_pause_s": 0.1},
    )
    assert [reply.status for reply in replies] == ["ok"] * 50
    assert probes <= 8  # one at a time, four in flight when it opened


# --- keys ---


def test_the_key_is_sent_and_never_repeated(monkeypatch, caplog, capfd):
    monkeypatch.setenv("PLANTED_KEY", KEY)

    async def work(executors, server, hub):
        caplog.set_level(logging.DEBUG)
        said = [repr(vars(executors)), (await executors.complete(ask("fault echo 1"))).text]
        for fault in ("unauthorized", "echo_error"):
            try:
                await executors.complete(ask(f"fault {fault} 99"))
            except (BackendConfigError, WorldFailureError) as error:
                said.append(f"{error} {error!r} {error.__cause__!r} {error.__context__!r}")
        return said, server

    said, server = served(work, api_key_env="PLANTED_KEY", retries=0)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert len(said) == 4
    assert "[key]" in said[1]
    out = capfd.readouterr()
    for text in (*said, caplog.text, out.out, out.err):
        assert KEY not in text


def test_what_episodes_leave_behind_holds_no_key(tmp_path, monkeypatch, capfd, caplog):
    """A worker's journal, cache, configuration and output, with a server that repeats the key."""
    monkeypatch.setenv("PLANTED_KEY", KEY)
    caplog.set_level(logging.INFO)

    async def play():
        async with FaultyServer() as server:
            server.echo = True
            executor = {
                "backend": "main",
                "backends": {
                    "main": {
                        "kind": "openai_compatible",
                        "base_url": server.url,
                        "model": "m",
                        "api_key_env": "PLANTED_KEY",
                        "retries": 0,
                    }
                },
            }
            config = parse_config(
                {
                    "tasks": {"world": {"questions": 10}},
                    "environment": {"pool": ["AnswerGenerate"], "prompt": "question"},
                    "rollout": {"episode_retries": 0},
                    "executor": executor,
                }
            )
            (tmp_path / "config.json").write_text(config.model_dump_json())
            hub = Hub(config.executor, Cache(CacheConfig(), tmp_path / "cache"))
            source = make_source(config)
            factory = make_factory(config, source, hub)
            journal = Journal(tmp_path / "journal")
            limits = Limits(4000, 3000, 200, 1.0)
            stops = Counter()
            for number, task in enumerate(source.train()[:9]):
                sampler = FakeSampler(
                    FakeRenderer.ids(f"<think>a</think><tool>AnswerGenerate: {number} ?</tool>"),
                    FakeRenderer.ids("<think>d</think><answer>x</answer>"),
                )
                rollout = Rollout(factory(), FakeRenderer(), sampler.sample, limits)
                trajectory = await rollout.run(task, EpisodeId("r", str(number), 0))
                stops[trajectory.stop_reason.value] += 1
                journal.append(to_batch(Group(str(number), task.id, 0, [trajectory])))
            journal.close()
            await factory.close()
            (tmp_path / "status.json").write_text(json.dumps(hub.status()))
            hub.close()
            return stops

    assert asyncio.run(play()) == {"answered": 6, "backend_failed": 3}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    out = capfd.readouterr()
    assert b"[key]" in written  # both in replies and in the errors of episodes set aside
    assert KEY.encode() not in written
    assert KEY not in out.out + out.err + caplog.text


def test_keys_come_from_a_file_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")

    async def work(executors, server, hub):
        await executors.complete(ask())
        return server.headers[0]["Authorization"]

    assert served(work, api_key_file=str(path)) == f"Bearer {KEY}"
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(BackendConfigError, match=r"main\.api_key_env=ABSENT.*is not set.*export"):
        served(work, api_key_env="ABSENT")
    with pytest.raises(BackendConfigError, match=r"api_key_file='/nowhere/key' cannot be read"):
        served(work, api_key_file="/nowhere/key")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fill_in_what_is_not_said(preset):
    main = {"kind": "openai_compatible", "preset": preset, "model": "m"}
    filled = parse_config({"executor": {"backends": {"main": main}}}).executor.backends["main"]
    assert (filled.base_url, filled.api_key_env) == tuple(PRESETS[preset])
    mine = {**main, "base_url": "https://proxy.example/v1/", "api_key_file": "k"}
    filled = parse_config({"executor": {"backends": {"main": mine}}}).executor.backends["main"]
    assert (filled.base_url, filled.api_key_env) == ("https://proxy.example/v1", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("api_key", KEY),
        ("api_key_env", KEY),
        ("base_url", f"https://user:{KEY}@host/v1"),
        ("base_url", f"https://host/v1?key={KEY}"),
        ("extra_body", {"nested": [{"api_key": KEY}]}),
        ("kind", {KEY: 1}),
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_repeated(field, value):
    main = {"kind": "openai_compatible", "base_url": "http://h/v1", "model": "m", field: value}
    with pytest.raises(ValueError, match=r"executor\.backends\.main") as caught:
        parse_config({"executor": {"backends": {"main": main}}})
    assert KEY not in str(caught.value)
