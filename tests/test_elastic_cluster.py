"""Machines that join and go under a run on several raylets; engines and learner are simulated."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]


@pytest.fixture
def cluster():
    """A head for everything but samplers, and a machine for one sampler."""
    import ray
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        first = _machine(cluster)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        yield cluster, first
    finally:  # also where a raylet did not come up
        ray.shutdown()
        cluster.shutdown()


def _machine(cluster):
    labels = {"pool": "spot"}
    return cluster.add_node(num_cpus=1, object_store_memory=80 << 20, labels=labels)


def _drain(cluster, node):
    """What `ray drain-node` does: give notice of a minute."""
    import time

    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

    deadline = int(1000 * (time.time() + 60))
    accepted, why = GcsClient(address=cluster.address).drain_node(
        node.node_id, DRAIN_NODE_REASON_PREEMPTION, "a test", deadline
    )
    assert accepted, why


def _simulation(directory):
    from benchmarks.simulated_cluster import SimulatedTopology, Simulation
    from benchmarks.simulated_roles import SamplerHost, Scale, Seat, SeatedSampler
    from cluster.remote import host

    class OnMachines(SeatedSampler):
        """A fake sampler that has a process and a place of its own."""

        def kill(self):
            import ray

            ray.kill(self.handle.actor)

    class Placed(SimulatedTopology):
        async def _start_sampler(self, name):
            place = await self.placing.sampler(name)
            actor = host(SamplerHost, self._scale, options=self._options(place, max_concurrency=99))
            await actor.open(name)
            return OnMachines(Seat(actor.handle, name))

        def _options(self, place=None, **more):
            stays = {"label_selector": {"pool": "!spot"}}
            return super()._options(place or stays, **more)

    class Elastic(Simulation):
        hosted = Placed

    scale = Scale(
        1,
        episodes=32,
        groups_per_batch=2,
        sampler_s=1.0,
        step_s=0.05,
        sampler_processes=0,
        worker_processes=1,
    )
    return Elastic(
        *("r", directory, scale),
        sampler={"count": 1, "max": 2},
        placement={"sampler": {"cpus": 1, "labels": {"pool": "spot"}}},
        supervision={"heartbeat_s": 0.2, "leave_s": 0.1},
    )


def test_a_machine_joins_and_gets_a_sampler_and_one_goes_without_a_loss(cluster, tmp_path):
    cluster, first = cluster

    async def until(condition):
        async with asyncio.timeout(60):
            while not condition():
                simulation.check()
                await asyncio.sleep(0.05)

    async def turns(count):
        """Let so many more turns come through."""
        await simulation.drain()
        seen = 0
        async with asyncio.timeout(60):
            while seen < count:
                seen += (await simulation.drain())[0]
                await asyncio.sleep(0.05)

    async def main():
        async with simulation.running(), simulation.supervised():
            fleet, pool = simulation.fleet, simulation.state.pool
            await simulation.pace(20)
            await until(lambda: simulation.supervision.node("sampler-0") == first.node_id)
            second = _machine(cluster)
            await until(lambda: list(fleet.joined) == ["sampler-0", "sampler-1"])
            await until(lambda: simulation.supervision.node("sampler-1") == second.node_id)
            version = simulation.state.version
            await turns(40)
            _drain(cluster, first)
            await until(lambda: pool.left)
            await until(lambda: list(fleet.joined) == ["sampler-1"])
            assert list(pool.live) == ["sampler-1"]
            await turns(40)
            await until(lambda: simulation.state.version > version)
            ledger = await simulation.topology.buffer.ledger()
            assert not ledger.discarded
            assert ledger.consumed > 0
            assert pool.lost == []
            assert [name for name, _ in pool.left] == ["sampler-0"]
            assert not pool.starting

    simulation = _simulation(tmp_path)
    asyncio.run(main())
