"""Placement groups on several raylets of one machine."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster():
    """A head without GPUs, two machines with 2 each, and one with 4 of another kind."""
    import ray
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    machines = {}
    for name, gpus, kind in (("a", 2, "l4"), ("b", 2, "l4"), ("c", 4, "h100")):
        machines[name] = cluster.add_node(
            num_cpus=2, num_gpus=gpus, labels={"kind": kind}, object_store_memory=80 << 20
        )
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    cluster.wait_for_nodes()
    yield cluster, machines
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def where():
    """Where an actor with these options runs: its node id."""
    import ray

    from cluster.heart import Heart
    from cluster.remote import host

    started = []

    async def where(options):
        started.append(host(Heart, options=options))
        return (await asyncio.wait_for(started[-1].beat(), 60)).node

    yield where
    for actor in started:
        actor.kill()
    del ray


def _groups():
    from ray.util.placement_group import placement_group_table

    states = placement_group_table().values()
    return [state for state in states if state["state"] not in ("REMOVED",)]


def _reserve(scenario):
    """Run a scenario with fresh reservations; afterwards nothing is reserved."""
    from cluster.reservations import Reservations

    async def main():
        reservations = Reservations(wait_s=20)
        try:
            await scenario(reservations)
        finally:
            reservations.close()

    asyncio.run(main())
    assert _groups() == []


def test_the_cluster_is_read(cluster):
    from cluster.nodes import cluster_nodes

    _, machines = cluster
    found = {node.name: node for node in cluster_nodes()}
    assert len(found) == 4
    big = found[machines["c"].node_id]
    assert (big.cpus, big.gpus, big.labels["kind"]) == (2, 4, "h100")


def test_a_gang_is_packed_an_engine_is_whole_and_a_worker_is_near(cluster, where):
    from cluster.placement import Demand

    _, machines = cluster

    async def scenario(reservations):
        gang = Demand("learner", 2, 0, 2, "strict_pack", {"kind": "h100"})
        places = await reservations.reserve(gang)
        assert {await where(options) for options in places} == {machines["c"].node_id}
        engines = [Demand(f"sampler-{i}", 1, 0, 2, "strict_pack") for i in range(2)]
        homes = []
        for engine in engines:
            (options,) = await reservations.reserve(engine)
            homes.append(await where(options))
            assert reservations.node(engine.name) == homes[-1]
        assert sorted(homes) == sorted(machines[name].node_id for name in "ab")
        worker = Demand("worker-1", 1, 0, 0, near="sampler-1")
        (options,) = await reservations.reserve(worker)
        assert await where({**options, **reservations.beside(worker.near)}) == homes[1]

    _reserve(scenario)


def test_samplers_share_a_gpu_and_spread_ranks_do_not_share_a_machine(cluster, where):
    from cluster.placement import Demand

    async def scenario(reservations):
        halves = [
            Demand(f"sampler-{i}", 1, 0, 0.5, "strict_pack", {"kind": "l4"}) for i in range(8)
        ]
        for half in halves:
            (options,) = await reservations.reserve(half)
            await where(options)
        spread = Demand("learner", 2, 1, 0, "strict_spread", {"kind": "in(l4,h100)"})
        places = await reservations.reserve(spread)
        assert len({await where(options) for options in places}) == 2

    _reserve(scenario)


def test_a_closed_machine_gets_nothing_with_or_without_counted_resources(cluster, where):
    from cluster.placement import Demand

    _, machines = cluster
    closed = [machines["a"].node_id]

    async def scenario(reservations):
        engine = Demand("sampler-0", 1, 0, 1, "strict_pack", {"kind": "l4"})
        (options,) = await reservations.reserve(engine, closed)
        assert await where(options) == machines["b"].node_id
        small = Demand("worker-0", 1, 0, 0, labels={"kind": "l4"})
        (options,) = await reservations.reserve(small, closed)
        assert await where(options) == machines["b"].node_id

    _reserve(scenario)


def test_what_finds_no_room_in_time_is_told_and_keeps_nothing(cluster):
    from cluster.placement import Demand
    from cluster.reservations import Reservations
    from wfr.protocols import PeerLostError

    async def main():
        reservations = Reservations(wait_s=0.5)
        gang = Demand("learner", 5, 0, 1, "strict_pack")
        with pytest.raises(PeerLostError, match=r"no place for learner, which takes 5 × 1 GPUs"):
            await reservations.reserve(gang)
        assert _groups() == []

    asyncio.run(main())


def test_a_lost_machine_costs_its_place_and_another_is_found(cluster, where):
    from cluster.placement import Demand

    cluster, machines = cluster

    async def scenario(reservations):
        engine = Demand("sampler-0", 1, 0, 1, "strict_pack", {"kind": "l4"})
        (options,) = await reservations.reserve(engine)
        lost = await where(options)
        (name,) = (name for name in "ab" if machines[name].node_id == lost)
        await asyncio.to_thread(cluster.remove_node, machines[name])
        (options,) = await reservations.reserve(engine)
        assert await where(options) not in (lost, machines["c"].node_id)

    _reserve(scenario)


def test_a_run_that_starts_anew_keeps_the_places_of_its_samplers(cluster, where):
    from cluster.placing import Placing
    from wfr.config import parse_config

    placement = {"sampler": {"cpus": 1}, "learner": {"cpus": 1}}
    placing = Placing(parse_config({"sampler": {"count": 2}, "placement": placement}), gpu=False)

    async def main():
        await placing.prepare()
        _, kept = [await placing.sampler(f"sampler-{index}") for index in range(2)]
        await placing.gang()
        before = len(_groups())
        placing.close(keep=["sampler-1"])
        assert (before, len(_groups())) == (3, 1)
        await where(kept)  # it can still be used
        await placing.prepare()
        await placing.sampler("sampler-2")
        assert len(_groups()) == 3

    try:
        asyncio.run(main())
    finally:
        placing.close()
    assert _groups() == []
