"""Two phases: nobody samples from new weights before everybody has them, and who fails is named."""

from __future__ import annotations

import os
import pickle
import time

import pytest

from cluster.two_phases import SamplersClient
from wfr.protocols import PeerLostError, PublishError, SamplersLostError

METHODS = ["begin_update", "receive_update", "prepare_update", "commit_update"]


def client(*names, **faults):
    """A client of samplers in memory; `faults` maps `name_method` to what that call raises."""

    class Local(SamplersClient):
        def __init__(self):
            super().__init__(names, 2)
            self.calls = []

        def call(self, method, arguments):
            self.calls.append((method, dict(arguments)))
            return {name: faults.get(f"{name}_{method}") for name in arguments}

    return Local()


def publish(client, version=3):
    client.version = version
    client.start_weight_update()
    client.update_weights({"names": []})
    client.finish_weight_update()


def test_the_second_phase_begins_when_all_have_ended_the_first():
    both = client("a", "b")
    publish(both)
    assert [method for method, _ in both.calls] == METHODS
    assert both.calls[-1][1] == {"a": (3,), "b": (3,)}
    assert both.lost == {}


def test_each_sampler_joins_at_its_own_ranks():
    both = client("a", "b")
    both.init_weight_transfer_engine({"rank_offset": 1, "port": 5})
    (_, arguments) = both.calls[0]
    assert {name: info["rank_offset"] for name, (info,) in arguments.items()} == {"a": 1, "b": 3}


@pytest.mark.parametrize("method", METHODS[:3])
def test_a_failure_in_phase_one_puts_nothing_in_force(method):
    both = client("a", "b", **{f"b_{method}": PeerLostError("gone")})
    with pytest.raises(SamplersLostError, match=f"b failed in {method}: gone") as caught:
        publish(both)
    assert set(caught.value.lost) == {"b"}
    assert "commit_update" not in [method for method, _ in both.calls]


def test_who_only_heard_of_a_death_is_not_to_blame():
    faults = {
        "a_receive_update": RuntimeError("connection closed by peer"),
        "b_receive_update": PeerLostError("process died"),
    }
    with pytest.raises(SamplersLostError) as caught:
        publish(client("a", "b", "c", **faults))
    assert set(caught.value.lost) == {"b"}


def test_a_failure_in_phase_two_loses_that_sampler_alone():
    both = client("a", "b", b_commit_update=PeerLostError("gone\nand much more"))
    publish(both)
    assert both.lost == {"b": "failed in commit_update: gone"}
    del both  # the next update of the others starts with a clean sheet
    fine = client("a")
    fine.lost = {"b": "before"}
    publish(fine)
    assert fine.lost == {}


def test_a_version_that_nobody_acknowledged_is_not_published():
    with pytest.raises(SamplersLostError):
        publish(client("a", a_commit_update=PeerLostError("gone")))


def test_checksums_are_asked_for_when_all_is_received():
    one = client("a")
    one.checksums = lambda: [(0, "w", 7)] if len(one.calls) == 2 else []
    publish(one)
    assert one.calls[2] == ("prepare_update", {"a": ([(0, "w", 7)],)})


@pytest.mark.parametrize(
    "error", [SamplersLostError({"a": "died"}), PublishError("version 3", {"a": "died"})]
)
def test_blame_travels_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.lost) == (type(error), str(error), {"a": "died"})


def process_class():
    """Made inside a function, so that Ray sends the class itself and not its module's name."""

    class Process:
        """A sampler's process without an engine: dies, hangs or answers at one method."""

        def __init__(self, method="", what=""):
            self.method, self.what, self.calls = method, what, []

        async def _do(self, name):
            self.calls.append(name)
            if name == self.method and self.what == "die":
                os._exit(1)
            if name == self.method and self.what == "hang":
                time.sleep(600)

        async def begin_update(self):
            await self._do("begin_update")

        async def receive_update(self, info):
            await self._do("receive_update")

        async def prepare_update(self, checksums):
            await self._do("prepare_update")

        async def commit_update(self, version):
            await self._do("commit_update")

        async def seen(self):
            return self.calls

    return Process


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.engine
@pytest.mark.parametrize("what", ["die", "hang"])
def test_killed_between_the_phases(cluster, what):
    """Real processes: one is gone, or silent, after it has prepared; the other has the version."""
    from cluster.remote import host
    from cluster.weights import RemoteSamplers

    options = {"num_cpus": 0}
    good = host(process_class(), options=options)
    bad = host(process_class(), "commit_update", what, options=options)
    try:
        samplers = RemoteSamplers({"good": good, "bad": bad}, 1, timeout_s=30.0)
        samplers.start_weight_update()
        samplers.update_weights({})
        samplers._timeout_s = 3.0
        samplers.finish_weight_update()
        assert set(samplers.lost) == {"bad"}
        assert cluster.get(good.handle.seen.remote()) == METHODS
    finally:
        good.kill()
        bad.kill()


@pytest.mark.engine
@pytest.mark.parametrize("method", METHODS[:3])
def test_killed_in_phase_one(cluster, method):
    """The other one stays where it is: held still, nothing in force."""
    from cluster.remote import host
    from cluster.weights import RemoteSamplers

    options = {"num_cpus": 0}
    good = host(process_class(), options=options)
    bad = host(process_class(), method, "die", options=options)
    try:
        with pytest.raises(SamplersLostError) as caught:
            publish(RemoteSamplers({"good": good, "bad": bad}, 1, timeout_s=60.0))
        assert set(caught.value.lost) == {"bad"}
        assert "commit_update" not in cluster.get(good.handle.seen.remote())
    finally:
        good.kill()
        bad.kill()


def test_every_phase_of_an_update_is_timed_and_an_older_one_forgotten():
    both = client("a", "b")
    publish(both)
    assert list(both.seconds) == ["hold", "receive", "install", "commit"]
    assert all(seconds >= 0 for seconds in both.seconds.values())
    both.start_weight_update()
    assert list(both.seconds) == ["hold"]
