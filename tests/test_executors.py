"""All executors of a worker: routing, cache, single flight, attempts, hedges, pools, accounts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import ClassVar

import pytest

from wfr.backends.base import BackendConfigError, BackendError, Completion, OperatorRequest
from wfr.backends.cache import Cache, Entry, cache_key, request_fields
from wfr.backends.executors import Executors
from wfr.backends.hub import Hub
from wfr.backends.recorded import export, read_recording
from wfr.backends.spending import charged_to
from wfr.config import parse_config
from wfr.executor_config import CacheConfig
from wfr.testing import settle
from wfr.trajectory import StopReason, WorldFailureError

CUSTOM = {"kind": "custom", "target": f"{__name__}:Scripted", "retries": 2}


class Scripted:
    """A backend that does what its test says; `calls` holds every request of every instance."""

    name = "scripted"
    identity: ClassVar = {"model": "scripted"}
    calls: ClassVar[list] = []
    script: ClassVar[list] = []
    open = None

    def __init__(self, label="x"):
        self.label = label

    async def complete(self, request):
        self.calls.append((self.label, request))
        if self.open is not None:
            await self.open.wait()
        step = self.script.pop(0) if self.script else "reply"
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            return await step()
        return Completion(step, prompt_tokens=10, completion_tokens=5, cost_usd=0.5)


@pytest.fixture(autouse=True)
def scripted():
    Scripted.calls, Scripted.script, Scripted.open = [], [], None
    return Scripted


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("tenacity.asyncio._portable_async_sleep", lambda _: asyncio.sleep(0))


def section(**values):
    backends = {"main": CUSTOM, **values.pop("backends", {})}
    return parse_config({"executor": {"backend": "main", "backends": backends, **values}}).executor


def ask(prompt="q", operator="AnswerGenerate", **fields):
    return OperatorRequest(operator, {"content": (prompt,)}, prompt, **fields)


def run(work, *, cache=None, settings=None, **values):
    """`work(executors, hub)` in a loop of its own, closed in order."""

    async def running():
        config = section(**(settings or {}), **values)
        hub = Hub(config, cache)
        executors = Executors(config, hub)
        try:
            return await work(executors, hub)
        finally:
            await executors.close()

    return asyncio.run(running())


def usage(hub):
    return hub._usage.total()


# --- routing and identity ---


def test_operators_go_to_their_own_backend():
    async def work(executors, hub):
        one = await executors.complete(ask("job of Xa ?\nXa job cook"))
        two = await executors.complete(ask("other", operator="Review"))
        return one, two, hub

    one, two, hub = run(
        work,
        backend="rule_based",
        operators={"Review": "main"},
    )
    assert ("cook" in one.text, one.backend) == (True, "rule_based")
    assert (two.text, two.backend) == ("reply", "main")
    assert {key.backend for key, _ in hub._usage} == {"rule_based", "main"}


KEYED = [
    ask("p"),
    ask("q"),
    ask("p", operator="Review"),
    ask("p", temperature=0.5),
    ask("p", max_tokens=5),
    ask("p", sample=1),
    OperatorRequest("AnswerGenerate", {"content": ("other",)}, "p"),
]


def test_the_key_covers_everything_that_matters():
    identities = ({"model": "a"}, {"model": "b"}, {"model": "a", "extra_body": {"seed": 1}})
    keys = {cache_key(request, identity) for request in KEYED for identity in identities}
    assert len(keys) == len(KEYED) * len(identities)
    assert cache_key(ask("p"), {"b": 1, "a": 2}) == cache_key(ask("p"), {"a": 2, "b": 1})


# --- single flight and cache ---


def test_identical_calls_under_way_are_one(scripted):
    async def work(executors, hub):
        scripted.open = asyncio.Event()
        calls = [asyncio.ensure_future(executors.complete(ask())) for _ in range(8)]
        await settle(lambda: scripted.calls)
        scripted.open.set()
        return await asyncio.gather(*calls), hub

    replies, hub = run(work)
    assert len(scripted.calls) == 1
    assert [reply.text for reply in replies] == ["reply"] * 8
    assert sorted(reply.cost_usd for reply in replies) == [0] * 7 + [0.5]
    total = usage(hub)
    assert (total.calls, total.shared, total.hits, total.requests) == (8, 7, 0, 1)
    assert (total.usd, total.saved_usd, total.tokens) == (0.5, 3.5, 15)


def test_the_caller_that_asked_first_may_leave(scripted):
    async def work(executors, hub):
        scripted.open = asyncio.Event()
        first, second = (asyncio.ensure_future(executors.complete(ask())) for _ in range(2))
        await settle(lambda: scripted.calls)
        first.cancel()
        await settle()
        scripted.open.set()
        return await second

    assert run(work).text == "reply"
    assert len(scripted.calls) == 1


def test_nobody_waits_any_more(scripted):
    async def work(executors, hub):
        scripted.open = asyncio.Event()
        only = asyncio.ensure_future(executors.complete(ask()))
        await settle(lambda: scripted.calls)
        only.cancel()
        await settle()
        assert hub._gates["main"].in_flight == 0
        scripted.open = None
        return await executors.complete(ask())

    assert run(work).text == "reply"
    assert len(scripted.calls) == 2


def test_a_failed_flight_fails_all_and_is_not_remembered(scripted):
    scripted.script = [BackendError("no")] * 3

    async def work(executors, hub):
        both = await asyncio.gather(
            *(executors.complete(ask()) for _ in range(2)), return_exceptions=True
        )
        return both, await executors.complete(ask())

    both, after = run(work)
    assert all(isinstance(error, WorldFailureError) for error in both)
    assert after.text == "reply"


def test_two_workers_share_cache_and_flight(scripted, tmp_path):
    async def work(executors, hub):
        other = Executors(section(), hub, "other")
        scripted.open = asyncio.Event()
        one, two = (asyncio.ensure_future(e.complete(ask())) for e in (executors, other))
        await settle(lambda: scripted.calls)
        await settle()
        scripted.open.set()
        replies = await asyncio.gather(one, two)
        await other.close()
        return replies, hub

    replies, hub = run(work, cache=Cache(CacheConfig(), tmp_path / "c"))
    assert len(scripted.calls) == 1
    assert [reply.cache_hit for reply in replies] == [False, True]
    assert usage(hub).hits == 1


def test_the_next_leads_when_a_worker_dies_with_the_lead(scripted):
    async def work(executors, hub):
        assert await hub.lookup("dead", cache_key(ask(), Scripted.identity)) is None
        call = asyncio.ensure_future(executors.complete(ask()))
        await settle()
        assert not scripted.calls
        hub.forget("dead")
        return await call

    assert run(work).text == "reply"


def test_only_deterministic_calls_are_kept(scripted):
    async def work(executors, hub):
        for temperature in (0.7, 0.7, 0.0, 0.0):
            await executors.complete(ask(temperature=temperature))

    run(work)
    assert len(scripted.calls) == 4  # without a cache nothing outlives its flight


def test_a_cache_outlives_its_run(scripted, tmp_path):
    async def work(executors, hub):
        with charged_to("source") as account:
            reply = await executors.complete(ask())
        return reply, account, hub

    first, before, _ = run(work, cache=Cache(CacheConfig(), tmp_path / "c"))
    second, after, hub = run(work, cache=Cache(CacheConfig(), tmp_path / "c"))
    assert len(scripted.calls) == 1
    assert (first.cache_hit, second.cache_hit) == (False, True)
    assert (second.cost_usd, second.saved_usd, second.text) == (0, 0.5, "reply")
    assert before.usd == after.usd == 0.5  # an episode's budget does not depend on the cache
    assert usage(hub).hits == 1
    assert usage(hub).usd == 0


def test_failures_and_refusals_are_not_kept(scripted, tmp_path):
    async def refuse():
        return Completion("no", status="refused")

    scripted.script = [refuse, "yes"]

    async def work(executors, hub):
        return [(await executors.complete(ask())).text for _ in range(2)]

    assert run(work, cache=Cache(CacheConfig(), tmp_path / "c")) == ["no", "yes"]


def test_without_cache_nothing_is_shared(scripted):
    async def work(executors, hub):
        await asyncio.gather(*(executors.complete(ask()) for _ in range(3)))

    run(work, settings={"cache": {"enabled": False}})
    assert len(scripted.calls) == 3


# --- the disk ---


def entry(text="t", prompt="q"):
    return Entry(request_fields(ask(prompt)), Completion(text, 1, 2, cost_usd=0.1))


def test_the_size_is_bounded(tmp_path):
    cache = Cache(CacheConfig(size_mib=1), tmp_path / "c")
    for number in range(400):
        cache.put(str(number), entry("x" * 20_000))
    assert cache.bytes() < 2 << 20
    assert cache.get("399") is not None
    assert cache.get("0") is None
    cache.close()


def test_read_only_writes_nothing(tmp_path):
    directory = tmp_path / "c"
    writable = Cache(CacheConfig(), directory)
    writable.put("k", entry())
    writable.close()
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    cache = Cache(CacheConfig(dir=str(directory), read_only=True), directory)
    cache.put("other", entry())
    assert cache.get("k") == entry()
    assert cache.get("other") is None
    cache.close()
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_cache_is_refused(tmp_path, read_only):
    (tmp_path / "cache.db").write_text("not a database, but long enough to look like one " * 100)
    with pytest.raises(BackendConfigError, match=r"cannot be opened as a cache.*name another"):
        Cache(CacheConfig(dir=str(tmp_path), read_only=read_only), tmp_path)


def test_damage_costs_a_hit_and_no_run(tmp_path):
    cache = Cache(CacheConfig(), tmp_path / "c")
    cache._disk.set("k", '{"request": {}}')
    assert cache.get("k") is None
    assert cache.errors == 1
    cache.close()


_WRITER = """
import sys
from typing import ClassVar
from wfr.backends.base import Completion
from wfr.backends.cache import Cache, Entry
from wfr.executor_config import CacheConfig
from pathlib import Path
cache = Cache(CacheConfig(), Path(sys.argv[1]))
for number in range(1_000_000):
    cache.put(str(number), Entry({"n": number}, Completion(str(number) * 3000)))
    print(number, flush=True)
"""


def test_a_writer_killed_in_the_middle_loses_nothing_that_it_had_kept(tmp_path):
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
        )
        kept = [int(writer.stdout.readline()) for _ in range(40)]
        os.kill(writer.pid, signal.SIGKILL)
        kept += [int(line) for line in writer.stdout.read().split()[:-1]]
        writer.wait()
        writer.stdout.close()
        cache = Cache(CacheConfig(), tmp_path / "c")
        for number in kept:
            assert cache.get(str(number)).completion.text == str(number) * 3000
        assert all(e.completion.text == str(e.request["n"]) * 3000 for _, e in cache.entries())
        cache.put("0", entry())
        assert cache.get("0") == entry()
        cache.put("0", Entry({"n": 0}, Completion("0" * 3000)))
        assert cache.errors == 0
        cache.close()


def test_a_cache_is_a_recording(tmp_path, scripted):
    async def work(executors, hub):
        return await executors.complete(ask())

    cache = Cache(CacheConfig(), tmp_path / "run" / "cache")
    run(work, cache=cache)
    cache.close()
    assert export(tmp_path / "run" / "cache", tmp_path / "calls.jsonl") == 1
    for path in ("calls.jsonl", "run", "run/cache"):
        backend = {"kind": "recorded", "path": str(tmp_path / path)}
        reply = run(work, backend="tape", backends={"tape": backend})
        assert (reply.text, reply.backend) == ("reply", "tape")
    assert len(scripted.calls) == 1

    async def another(executors, hub):
        return await executors.complete(ask("never asked"))

    with pytest.raises(BackendConfigError, match=r"1 replies\) holds no reply to AnswerGenerate"):
        run(another, backend="tape", backends={"tape": backend})


@pytest.mark.parametrize("line", ["{}", "[", '{"request": {}, "completion": {"txt": 1}}'])
def test_a_broken_recording_names_its_line(tmp_path, line):
    path = tmp_path / "calls.jsonl"
    path.write_text(entry().text() + "\n" + line + "\n")
    with pytest.raises(BackendConfigError, match=r"calls\.jsonl, line 2"):
        read_recording("tape", str(path))


# --- attempts ---


def test_a_passing_fault_is_tried_again(scripted):
    scripted.script = [BackendError("one"), BackendError("two"), "Paris"]

    async def work(executors, hub):
        return await executors.complete(ask()), hub

    reply, hub = run(work)
    assert reply.text == "Paris"
    total = usage(hub)
    assert (total.requests, total.failed, total.set_aside) == (3, 2, 0)


def test_a_lasting_fault_is_a_fault_of_the_world(scripted):
    scripted.script = [BackendError(f"fault {i}") for i in range(9)]

    async def work(executors, hub):
        with pytest.raises(WorldFailureError, match=r"failed 3 times.*fault 2") as caught:
            await executors.complete(ask())
        await executors._reporter.flush()
        return caught.value, usage(hub)

    error, total = run(work)
    assert error.reason is StopReason.BACKEND_FAILED
    assert (total.requests, total.failed, total.set_aside, total.calls) == (3, 3, 1, 1)


def test_a_bug_is_not_tried_again(scripted):
    scripted.script = [KeyError("bug")]

    async def work(executors, hub):
        with pytest.raises(KeyError, match="bug"):
            await executors.complete(ask())
        await executors._reporter.flush()
        return hub._gates["main"].in_flight

    assert run(work) == 0
    assert len(scripted.calls) == 1


def test_a_busy_backend_that_says_until_when_costs_no_attempt(scripted):
    busy = [BackendError("busy", 0.001, busy=True) for _ in range(10)]
    scripted.script = [*busy, "at last"]

    async def work(executors, hub):
        return await executors.complete(ask())

    assert run(work).text == "at last"


def test_a_hedge_overtakes_a_slow_request(scripted):
    async def slow():
        await asyncio.Event().wait()

    scripted.script = [slow, "fast"]

    async def work(executors, hub):
        reply = await executors.complete(ask())
        await executors._reporter.flush()
        return reply, usage(hub), hub._gates["main"].in_flight

    backend = {**CUSTOM, "hedge_after_s": 0.01}
    reply, total, in_flight = run(work, backends={"main": backend})
    assert reply.text == "fast"
    assert (total.requests, total.hedges, total.calls) == (2, 1, 1)
    assert in_flight == 0


def test_a_wrong_configuration_reaches_everybody(scripted):
    scripted.script = [BackendConfigError("no such model")]

    async def work(executors, hub):
        return await asyncio.gather(
            *(executors.complete(ask()) for _ in range(3)), return_exceptions=True
        )

    assert all(isinstance(error, BackendConfigError) for error in run(work))


# --- pools ---


def pool(**members):
    backends = {
        name: {**CUSTOM, "retries": 0, "options": {"label": name}, "breaker": {"failures": 2}}
        for name in members
    }
    return {
        "backend": "many",
        "backends": {**backends, "many": {"kind": "pool", "members": members}},
    }


def test_a_pool_spreads_by_weight(scripted):
    async def work(executors, hub):
        executors._backends["many"]._rng.seed(1)
        for number in range(400):
            await executors.complete(ask(str(number)))

    run(work, **pool(heavy=3, light=1))
    labels = [label for label, _ in scripted.calls]
    assert 0.65 < labels.count("heavy") / 400 < 0.85


def test_a_member_that_is_down_is_left_alone(monkeypatch):
    async def complete(self, request):
        self.calls.append((self.label, request))
        if self.label == "bad":
            raise BackendError("down")
        return Completion(self.label)

    monkeypatch.setattr(Scripted, "complete", complete)

    async def work(executors, hub):
        return [(await executors.complete(ask(str(n)))).backend for n in range(40)]

    assert run(work, **pool(bad=1, good=1)) == ["good"] * 40
    assert sum(label == "bad" for label, _ in Scripted.calls) == 2


def test_a_pool_without_a_living_member_sets_episodes_aside_and_then_waits(monkeypatch):
    async def complete(self, request):
        raise BackendError("down")

    monkeypatch.setattr(Scripted, "complete", complete)

    async def work(executors, hub):
        for n in range(2):
            with pytest.raises(WorldFailureError):
                await executors.complete(ask(str(n)))
        third = asyncio.ensure_future(executors.complete(ask("3")))
        await settle()
        waits = not third.done()
        third.cancel()
        await settle()
        return waits

    assert run(work, **pool(one=1, two=1)) is True


# --- budgets ---


@pytest.mark.parametrize(
    ("bound", "allowed"), [({"calls": 2}, 2), ({"tokens": 30}, 2), ({"usd": 1.0}, 2)]
)
def test_an_episode_is_told_that_its_budget_is_spent(scripted, bound, allowed):
    async def work(executors, hub):
        with charged_to("s"):
            return [await executors.complete(ask(str(n))) for n in range(4)]

    replies = run(work, budget={"episode": bound})
    assert [r.status for r in replies] == ["ok"] * allowed + ["over_budget"] * (4 - allowed)
    assert "budget" in replies[-1].text
    assert len(scripted.calls) == allowed


def test_a_call_asks_for_no_more_than_its_budget(scripted):
    async def work(executors, hub):
        await executors.complete(ask(max_tokens=1000))

    run(work, budget={"call": {"tokens": 64}})
    assert scripted.calls[0][1].max_tokens == 64


def test_a_call_that_takes_too_long_is_set_aside(scripted):
    async def work(executors, hub):
        scripted.open = asyncio.Event()
        with pytest.raises(WorldFailureError, match=r"budget\.call\.seconds"):
            await executors.complete(ask())
        await settle()
        return hub._gates["main"].in_flight

    assert run(work, budget={"call": {"seconds": 0.02}}) == 0


def test_a_run_pauses_before_it_exceeds_its_budget(scripted):
    async def work(executors, hub):
        calls = [asyncio.ensure_future(executors.complete(ask(str(n)))) for n in range(5)]
        await asyncio.wait(calls, timeout=0.5)
        done = sum(call.result().text == "reply" for call in calls if call.done())
        for call in calls:
            call.cancel()
        await settle()
        return done, hub.status()

    done, status = run(work, budget={"run": {"calls": 3}})
    assert done == 3
    assert len(scripted.calls) == 3
    assert status["paused"] == "executor.budget.run.calls=3"


def test_usage_is_told_by_operator_backend_and_source(scripted):
    async def work(executors, hub):
        for source, operator in (("a", "Review"), ("a", "Revise"), ("b", "Review")):
            with charged_to(source):
                await executors.complete(ask(source + operator, operator=operator))
        await executors._reporter.flush()
        return hub

    table = run(work)._usage
    assert {name: u.calls for name, u in table.by("source").items()} == {"a": 2, "b": 1}
    assert {name: u.usd for name, u in table.by("operator").items()} == {"Review": 1, "Revise": 0.5}
    assert {name: u.requests for name, u in table.by("backend").items()} == {"main": 3}
    assert json.dumps(table.rows())


def test_a_custom_class_that_is_not_there_is_named():
    backend = {"kind": "custom", "target": "tests.nowhere:Nobody"}
    with pytest.raises(BackendConfigError, match=r"backends\.main\.target='tests\.nowhere:Nobody'"):
        run(None, backends={"main": backend})
