"""Parts of the service one by one: places, keys, limits, releases, following, the flywheel."""

from __future__ import annotations

import asyncio
import datetime
import hmac
import json
import stat
from collections import Counter

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from served import ANSWER, SEARCH, configured, served, turns

from cluster.serving.admission import Admission
from cluster.serving.api_keys import ApiKey, ApiKeys, KeyFileError, add_key, digest
from cluster.serving.directors import Directors
from cluster.serving.errors import ServingError
from cluster.serving.flywheel import Flywheel, find_redact
from cluster.serving.follow import Follower, chosen, newest, pin
from cluster.serving.quota import Quotas
from cluster.serving.registry import Registry
from cluster.serving.release import Release, Verdict
from wfr.config import ConfigError, parse_config
from wfr.recording import read_batches
from wfr.schema import from_batch
from wfr.serving_config import CanaryConfig
from wfr.testing import FakeClock, FakeDirector

TODAY = datetime.date(2026, 1, 15)


# ---- places


@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.lists(st.sampled_from(["ask", "end", "leave"]), max_size=30),
)
def test_places_against_a_model(places, queue, script):  # noqa: C901 - one branch an event
    """A list of who waits and who runs is the oracle; the first who came is the first served."""

    async def main():
        admission = Admission(places, queue, 60)
        running, waiting, holds, ended = [], [], {}, {}

        async def hold(name):
            async with admission.hold():
                await ended[name].wait()

        for name, event in enumerate(script):
            if event == "ask":
                ended[name] = asyncio.Event()
                holds[name] = asyncio.create_task(hold(name))
                await asyncio.sleep(0)
                if len(running) < places:
                    running.append(name)
                elif len(waiting) < queue:
                    waiting.append(name)
                else:
                    with pytest.raises(ServingError, match="overloaded"):
                        await holds.pop(name)
            elif event == "end" and running:
                first = running.pop(0)
                ended[first].set()
                await holds.pop(first)
                if waiting:
                    running.append(waiting.pop(0))
            elif event == "leave" and waiting:
                last = waiting.pop()
                holds[last].cancel()
                await asyncio.gather(holds.pop(last), return_exceptions=True)
            await asyncio.sleep(0)
            assert (admission.running, admission.waiting) == (len(running), len(waiting))
        for task in holds.values():
            task.cancel()
        await asyncio.gather(*holds.values(), return_exceptions=True)
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(main())


def test_nobody_waits_longer_than_the_bound():
    async def main():
        admission = Admission(1, 1, 0.01)
        async with admission.hold():
            with pytest.raises(ServingError, match=r"within 0\.01 s") as refused:
                async with admission.hold():
                    pass
        assert refused.value.headers()["Retry-After"] == "1"
        assert (admission.running, admission.waiting) == (0, 0)
        admission.draining = True
        with pytest.raises(ServingError, match="shutting down"):
            async with admission.hold():
                pass

    asyncio.run(main())


# ---- keys


def keyring(tmp_path, **limits):
    path = tmp_path / "keys.yaml"
    secret = add_key(path, "web", **limits)
    return path, secret, ApiKeys(path)


def test_a_key_opens_and_its_secret_is_nowhere(tmp_path):
    path, secret, keys = keyring(tmp_path)
    assert keys.check(f"Bearer {secret}").name == "web"
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "Bearer wfr-\u00e9"]
)
def test_other_headers_do_not(tmp_path, header):
    _, _, keys = keyring(tmp_path)
    with pytest.raises(ServingError) as refused:
        keys.check(header)
    assert refused.value.status == 401
    assert refused.value.headers()["WWW-Authenticate"] == "Bearer"


def test_an_expired_key_says_so(tmp_path):
    _, secret, keys = keyring(tmp_path, expires=TODAY)
    keys.check(f"Bearer {secret}", today=TODAY)
    with pytest.raises(ServingError, match="ended 2026-01-15"):
        keys.check(f"Bearer {secret}", today=TODAY + datetime.timedelta(1))


def test_rotation_without_a_restart(tmp_path):
    path, old, keys = keyring(tmp_path)
    new = add_key(path, "web2")
    keys.check(f"Bearer {new}")
    kept = [row for row in yaml.safe_load(path.read_text()) if row["name"] == "web2"]
    path.write_text(yaml.safe_dump(kept))
    with pytest.raises(ServingError, match="not known"):
        keys.check(f"Bearer {old}")
    keys.check(f"Bearer {new}")


def test_a_broken_file_leaves_the_keys_as_they_are(tmp_path):
    path, secret, keys = keyring(tmp_path)
    path.write_text("- name: x\n  sha256: short\n")
    keys.check(f"Bearer {secret}")
    assert "sha256" in keys.fault
    path.unlink()
    keys.check(f"Bearer {secret}")
    with pytest.raises(KeyFileError, match="wfr serve key"):
        ApiKeys(path)


def test_a_name_is_taken_once(tmp_path):
    path, _, _ = keyring(tmp_path)
    with pytest.raises(KeyFileError, match="already"):
        add_key(path, "web")
    with pytest.raises(KeyFileError, match="name"):
        add_key(path, "with space")


def test_every_hash_is_compared_in_constant_time(tmp_path, monkeypatch):
    """Probing by time learns nothing: no entry is skipped, and no comparison ends early."""
    path, secret, _ = keyring(tmp_path)
    for index in range(4):
        add_key(path, f"more{index}")
    keys, compared = ApiKeys(path), []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    keys.check(f"Bearer {secret}")
    assert len(compared) == 5
    assert {given for _, given in compared} == {digest(secret)}


# ---- limits


def test_the_rate_of_a_key():
    clock = FakeClock()
    quotas, key = Quotas(clock), ApiKey(name="a", sha256="0" * 64, requests_per_minute=6)
    for _ in range(6):
        quotas.take(key)
    with pytest.raises(ServingError, match="6 requests per minute") as refused:
        quotas.take(key)
    assert refused.value.headers()["Retry-After"] == "10"
    clock.now = 10.0
    quotas.take(key)
    with pytest.raises(ServingError):
        quotas.take(key)


@given(st.lists(st.floats(0, 120), min_size=1, max_size=60), st.floats(0.5, 30))
def test_never_more_than_the_rate_allows(pauses, rate):
    """In any window from the start on: at most one minute's worth at once, and the rate after."""
    clock = FakeClock()
    quotas, key = Quotas(clock), ApiKey(name="a", sha256="0" * 64, requests_per_minute=rate)
    taken = 0
    for pause in pauses:
        clock.now += pause
        try:
            quotas.take(key)
            taken += 1
        except ServingError:
            pass
        assert taken <= max(1.0, rate) + clock.now * rate / 60 + 1e-6


def test_the_budget_of_a_key():
    quotas, key = Quotas(), ApiKey(name="a", sha256="0" * 64, usd=1.0)
    quotas.spend("a", 0.6)
    quotas.take(key)
    quotas.spend("a", 0.6)
    with pytest.raises(ServingError, match="spent") as refused:
        quotas.take(key)
    assert refused.value.status == 402


def test_keys_guard_workflows_and_keep_them_apart(tmp_path):
    path = tmp_path / "keys.yaml"
    mine = {"Authorization": f"Bearer {add_key(path, 'mine', requests_per_minute=3)}"}
    other = {"Authorization": f"Bearer {add_key(path, 'other')}"}

    async def main():
        async with served(keys=ApiKeys(path)) as one, one.client() as client:
            assert (await client.post("/v1/workflows", json={"question": "x"})).status_code == 401
            assert (await client.get("/v1/models")).status_code == 401
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/")).status_code == 200
            asked = await client.post("/v1/workflows", json={"question": "x"}, headers=mine)
            place = f"/v1/workflows/{asked.json()['id']}"
            assert (await client.get(place, headers=mine)).status_code == 200
            assert (await client.get(place, headers=other)).status_code == 404
            assert (await client.delete(place, headers=other)).status_code == 404
            assert (await client.get(place, headers=mine)).status_code == 200
            assert (await client.get(place, headers=mine)).status_code == 429
            assert {line["key"] for line in one.lines()} == {"", "mine", "other"}

    asyncio.run(main())


# ---- releases


def canary(**settings):
    return Release(1, CanaryConfig(**settings))


def test_a_canary_gets_exactly_its_share():
    release = canary(percent=12.5, workflows=10_000)
    release.offer(2)
    assert Counter(release.choose() for _ in range(800)) == {1: 700, 2: 100}


def test_a_sound_canary_takes_over():
    release = canary(workflows=3)
    release.offer(2)
    verdicts = [release.note(2, sound=True) for _ in range(3)]
    assert verdicts == [None, None, Verdict.PROMOTED]
    assert (release.stable, release.canary) == (2, None)


def test_a_bad_canary_is_taken_back_early_and_for_good():
    release = canary(workflows=100, tolerance=0.02)
    release.offer(2)
    assert [release.note(2, sound=False) for _ in range(3)][-1] is Verdict.TAKEN_BACK
    assert (release.stable, release.canary) == (1, None)
    assert not release.may_offer(2)
    assert release.may_offer(3)


def test_a_canary_is_measured_against_its_predecessor():
    release = canary(workflows=10, tolerance=0.1)
    for index in range(10):
        release.note(1, sound=index % 2 == 0)
    release.offer(2)
    for index in range(9):
        assert release.note(2, sound=index % 2 == 0) is None
    assert release.note(2, sound=True) is Verdict.PROMOTED


def test_a_pinned_version_alone_answers():
    release = canary()
    release.offer(2)
    release.pin(1)
    assert {release.choose() for _ in range(50)} == {1}
    assert not release.may_offer(3)
    release.unpin()
    assert release.may_offer(2)


events = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 8)),
        st.tuples(st.just("pin"), st.integers(0, 8)),
        st.tuples(st.just("unpin"), st.just(0)),
        st.tuples(st.sampled_from(["sound", "bad"]), st.integers(0, 8)),
    ),
    max_size=60,
)


@given(events, st.integers(0, 5), st.floats(1, 100))
def test_invariants_of_a_release(script, workflows, percent):
    release = canary(workflows=workflows, percent=percent)
    for name, version in script:
        before = release.stable
        if name == "offer" and release.may_offer(version):
            release.offer(version)
            assert version in release.wanted
        elif name == "pin":
            release.pin(version)
            assert release.wanted == {version}
        elif name == "unpin":
            release.unpin()
        elif name in ("sound", "bad"):
            verdict = release.note(version, sound=name == "sound")
            assert (verdict is Verdict.PROMOTED) == (release.stable != before)
        assert release.stable in release.wanted
        assert release.canary is None or release.canary > release.stable or release.pinned is None
        assert release.canary not in release.rejected
        assert {release.choose() for _ in range(5)} <= release.wanted
        if release.pinned is not None:
            assert release.wanted == {release.pinned}


# ---- versions side by side


def test_a_workflow_in_flight_finishes_on_its_version():
    config = configured(canary={"workflows": 0})

    async def main():
        async with served(config=config) as one, one.client() as client:
            one.director.open.clear()
            asking = asyncio.create_task(client.post("/v1/workflows", json={"question": "x"}))
            while not one.director.requests:
                await asyncio.sleep(0)
            await one.service.directors.offer("unused", 8)
            old, new = one.directors
            assert not old.ended
            later = await client.post("/v1/workflows", json={"question": "x"})
            assert later.headers["x-policy-version"] == "8"
            old.open.set()
            first = await asking
            assert first.headers["x-policy-version"] == "7"
            assert first.json()["answer"] == "Berlin"
            assert old.ended
            assert not new.ended
            assert len(old.requests) == 2  # both turns
            assert one.service.directors.versions == {8: 0}

    asyncio.run(main())


def test_a_version_that_writes_nonsense_is_taken_back():
    config = configured(canary={"workflows": 10, "percent": 50, "tolerance": 0.1})

    async def main():
        async with served(config=config) as one, one.client() as client:
            one.service.directors._start = lambda path, version: started(version, "nonsense")
            await one.service.directors.offer("unused", 8)
            for _ in range(6):
                await client.post("/v1/workflows", json={"question": "x"})
            release = one.service.directors.release
            assert (release.stable, release.canary, release.rejected) == (7, None, {8})
            assert one.service.directors.versions == {7: 0}
            text = (await client.get("/metrics")).text
            assert 'wfr_serving_releases_total{replica="0",verdict="taken_back"} 1.0' in text

    asyncio.run(main())


async def started(version, *texts):
    return FakeDirector(turns(*texts), version=version)


# ---- following a run


def run_with(tmp_path, *versions):
    for version in versions:
        path = tmp_path / "checkpoints" / str(version)
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text("{}")
        (path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_newer_checkpoints_are_offered_and_pins_heeded(tmp_path):
    run, lines, begun = run_with(tmp_path, 3), [], []

    async def start(path, version):
        begun.append((path.name, version))
        if version == 5:
            raise RuntimeError("broken")
        return FakeDirector(turns(ANSWER), version=version)

    async def main():
        directors = Directors(Release(3, CanaryConfig(workflows=0)), start)
        await directors.begin(newest(run).path)
        follower = Follower(run, directors, lines.append)
        await follower.look()
        assert begun == [("3", 3)]
        run_with(tmp_path, 4)
        await follower.look()
        assert directors.release.stable == 4
        run_with(tmp_path, 5)
        await follower.look()
        await follower.look()
        assert begun.count(("5", 5)) == 1
        assert directors.release.stable == 4
        assert any("does not start: broken" in line for line in lines)
        pin(run, 3)
        await follower.look()
        assert directors.release.stable == 3
        assert directors.versions == {3: 0}
        run_with(tmp_path, 6)
        await follower.look()
        assert directors.release.stable == 3
        pin(run, None)
        await follower.look()
        assert directors.release.stable == 6

    asyncio.run(main())
    with pytest.raises(ConfigError, match="there is 3, 4, 5, 6"):
        pin(run, 9)


def test_what_is_served(tmp_path):
    run = run_with(tmp_path / "run", 2, 10)
    assert chosen(run).version == newest(run).version == 10
    assert chosen(run / "checkpoints" / "2").version == 2
    with pytest.raises(ConfigError, match="neither"):
        chosen(tmp_path)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not written a checkpoint"):
        chosen(tmp_path / "empty")


# ---- the registry


def test_workflows_of_a_replica_that_falls_silent_have_failed():
    async def main():
        clock = FakeClock()
        registry = Registry(10, 3600, clock)
        await registry.exchange("a", "")
        await registry.begin("a", "", {"id": "wf", "cost_usd": 0.0, "status": "running"})
        assert (await registry.get("wf", ""))["status"] == "running"
        clock.now = 31.0
        assert (await registry.get("wf", ""))["status"] == "failed"
        await registry.end({"id": "wf", "cost_usd": 0.0, "status": "done"})
        assert (await registry.get("wf", ""))["status"] == "failed"

    asyncio.run(main())


def test_the_registry_forgets():
    async def main():
        clock = FakeClock()
        registry = Registry(2, 60, clock)
        for name in "abc":
            view = {"id": name, "cost_usd": 0.0}
            await registry.begin("r", "", view)
            await registry.end(view)
        with pytest.raises(ServingError):
            await registry.get("a", "")
        await registry.get("b", "")
        clock.now = 61.0
        with pytest.raises(ServingError):
            await registry.get("b", "")

    asyncio.run(main())


def test_a_workflow_can_be_cancelled_through_another_replica():
    async def main():
        registry = Registry(10, 60)
        async with (
            served(registry=registry, replica="a") as first,
            served(registry=registry, replica="b") as second,
            first.client() as client,
            second.client() as other,
        ):
            first.director.open.clear()
            body = {"question": "x", "background": True}
            name = (await client.post("/v1/workflows", json=body)).json()["id"]
            assert (await other.delete(f"/v1/workflows/{name}")).status_code == 200
            async with asyncio.timeout(10):
                while first.service.places["workflow"].running:
                    await asyncio.sleep(0)
            assert (await other.get(f"/v1/workflows/{name}")).json()["status"] == "cancelled"

    asyncio.run(main())


# ---- the flywheel


def test_rated_workflows_become_a_journal(tmp_path):
    flywheel = Flywheel(tmp_path, "replica-1")

    async def main():
        async with served(flywheel=flywheel) as one, one.client() as client:
            names = []
            for _ in range(2):
                view = (await client.post("/v1/workflows", json={"question": "x"})).json()
                names.append(view["id"])
            place = f"/v1/workflows/{names[0]}/rating"
            assert (await client.post(place, json={"reward": 0.75})).status_code == 204
            assert (await client.post(place, json={"reward": 0.1})).status_code == 409
            bad = await client.post(place, content=b'{"reward": 1e999}')
            assert bad.status_code == 400
        return names

    names = asyncio.run(main())
    flywheel.close()
    (batch,) = read_batches(tmp_path)
    group = from_batch(batch)
    (row,) = group.trajectories
    assert (group.group_id, group.admitted_version, row.reward) == (names[0], 7, 0.75)
    assert "".join(map(chr, row.tokens[row.turn_id >= 0])) == SEARCH + ANSWER


def test_redaction_comes_before_anything_is_written(tmp_path):
    seen = []
    flywheel = Flywheel(tmp_path, "r", redact=lambda trajectory: seen.append(trajectory))

    async def main():
        async with served(flywheel=flywheel) as one, one.client() as client:
            view = (await client.post("/v1/workflows", json={"question": "secret"})).json()
            rating = f"/v1/workflows/{view['id']}/rating"
            return (await client.post(rating, json={"reward": 1})).status_code

    assert asyncio.run(main()) == 409
    assert len(seen) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_unrated_workflows_make_room(tmp_path):
    flywheel = Flywheel(tmp_path, "r", waiting=2)

    async def main():
        async with served(flywheel=flywheel) as one, one.client() as client:
            for _ in range(4):
                await client.post("/v1/workflows", json={"question": "x"})

    asyncio.run(main())
    assert len(list((tmp_path / ".unrated").iterdir())) == 2


def test_a_service_that_keeps_nothing_says_so():
    async def main():
        async with served() as one, one.client() as client:
            view = (await client.post("/v1/workflows", json={"question": "x"})).json()
            rating = f"/v1/workflows/{view['id']}/rating"
            answer = await client.post(rating, json={"reward": 1})
            return answer.json()["error"]

    assert asyncio.run(main())["code"] == "not_kept"


def test_the_hook_has_to_exist():
    assert find_redact("json:loads") is json.loads
    with pytest.raises(ValueError, match="nowhere"):
        find_redact("nowhere_to_be_found:f")
    with pytest.raises(ConfigError, match="module:function"):
        parse_config({"serving": {"redact": "json.loads"}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tls_cert": "a"}, "belong together"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas=2"),
        ({"name": "a:b"}, "name"),
    ],
)
def test_bad_sections_are_explained(section, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"serving": section})
