"""The hand-over in Ray: one copy, owned by the buffer; what a worker gave outlives the worker."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(200)]

TOKENS = 200_000


class FakeWorker:
    """Hands over one group like a rollout worker, without playing it."""

    async def give(self, buffer, name):
        import ray

        from cluster.hand_over import HandOver
        from wfr.groups import GroupMeta

        self._offered = {}
        me = ray.get_runtime_context().current_actor
        view = HandOver(buffer, me, self._offered)
        admission = await view.admit(name)
        batch = group(admission.group_id)
        meta = GroupMeta(2, 2, 2 * TOKENS, admission.version, size=batch.nbytes)
        kept = await view.add(admission.group_id, batch, meta)
        return kept, len(self._offered)

    async def give_again_and_again(self, buffer, run, count):
        """Hand `count` groups in, each twice in one bundle and once more; what was kept."""
        import ray

        from cluster.hand_over import HandOver
        from wfr.groups import GroupMeta
        from wfr.journal import Journal

        self._offered = {}
        view = HandOver(buffer, ray.get_runtime_context().current_actor, self._offered)
        admissions = await asyncio.gather(*(view.admit("w") for _ in range(count)))
        assert sorted(a.group_id for a in admissions) == list(range(count))
        groups = []
        with Journal(Path(run) / "journal" / "w") as journal:
            for admission in admissions:
                batch = group(admission.group_id)
                meta = GroupMeta(2, 2, 2 * (TOKENS - 2), admission.version, size=batch.nbytes)
                journal.append(batch, dataclasses.asdict(meta))
                groups.append((admission.group_id, batch, meta))
        first = await asyncio.gather(*(view.add(*g) for g in groups for _ in range(2)))
        second = await asyncio.gather(*(view.add(*g) for g in groups))
        return first, second, len(self._offered)

    async def hand_over(self, group_ids):
        from cluster.hand_over import pack

        return pack(self._offered, group_ids)


class Reader:
    """Reads a batch as a learner rank does."""

    def read(self, *refs):
        from cluster.hand_over import columns_of
        from wfr.columns import view

        found = []
        for ref in refs:
            for episode in view(columns_of(ref)).trajectories:
                address = episode.tokens.ctypes.data
                found.append((int(episode.tokens[-1]), mapping_of(address)))
        return found


def mapping_of(address):
    """What the memory at an address is a map of."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5) if len(line.split()) > 5 else (line.split()[0], "")
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return name
    return "nothing"


def group(number):
    from wfr.schema import to_batch
    from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan

    row = Trajectory(
        *("run", "task", str(number), 0),
        tokens=np.full(TOKENS, number, np.int32),
        turn_id=np.where(np.arange(TOKENS) < 2, -1, 0).astype(np.int16),
        behaviour_logprob=np.zeros(TOKENS, np.float32),
        version_spans=[VersionSpan(2, TOKENS, 0)],
        turns=[Turn(2, TOKENS, TOKENS, TurnKind.ANSWER, "stop")],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=1.0,
    )
    return to_batch(Group(str(number), "task", 0, [row, row]))


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(num_cpus=2, object_store_memory=300 << 20, include_dashboard=False)
    yield ray
    ray.shutdown()


def test_groups_outlive_their_worker_and_are_read_where_they_lie(cluster, tmp_path):
    from cluster.hand_over import HostedBuffer
    from cluster.remote import host
    from wfr.protocols import PeerLostError
    from wfr.selection import Rules

    async def main():
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        size = group(0).nbytes
        settings = {"memory_bytes": size}
        places = (str(tmp_path / "spill"), str(tmp_path / "ledger.jsonl"), "off")
        buffer = host(HostedBuffer, Rules(0, 2), settings, *places, options=options)
        worker, reader = host(FakeWorker, options=options), host(Reader, options=options)
        gifts = [await worker.give(buffer, "w") for _ in range(2)]
        assert gifts == [(True, 0), (True, 0)]
        worker.kill()
        with pytest.raises(PeerLostError):
            await worker.give(buffer, "w")
        batch = await buffer.take()
        memory = await buffer.memory()
        assert (memory.resident, memory.spilled) == (size, size)
        read = await reader.read(*(entry.ref[0] for entry in batch.groups))
        await buffer.published(1, batch.batch_id)
        return read, await buffer.memory()

    read, memory = asyncio.run(main())
    assert [last for last, _ in read] == [0, 0, 1, 1]
    in_memory, on_disk = {name for _, name in read[:2]}, {name for _, name in read[2:]}
    assert len(in_memory) == 1
    assert "/plasma" in in_memory.pop()  # the object store's mapping, not this process's heap
    assert on_disk == {str(tmp_path / "spill" / "1.arrow")}
    assert (memory.resident, memory.spilled) == (0, 0)
    assert list((tmp_path / "spill").iterdir()) == []


def test_groups_that_are_delivered_again_are_used_once(cluster, tmp_path):
    from cluster.hand_over import HostedBuffer
    from cluster.remote import host
    from wfr.audit import audit
    from wfr.recovery import ledger_path
    from wfr.selection import Rules

    (tmp_path / "config.json").write_text(json.dumps({"buffer": {"max_lag": 0, "shards": 1}}))

    async def main():
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {"PYTHONPATH": path}}}
        places = (str(tmp_path / "spill"), str(ledger_path(tmp_path, 0)), "off")
        buffer = host(
            HostedBuffer, Rules(0, 3), {"memory_bytes": 1 << 30}, *places, options=options
        )
        worker = host(FakeWorker, options=options)
        kept = await worker.give_again_and_again(buffer, str(tmp_path), 3)
        batch = await buffer.take()
        await buffer.published(1, batch.batch_id)
        await buffer.force()
        return kept, [e.group_id for e in batch.entries], await buffer.ledger()

    kept, taken, ledger = asyncio.run(main())
    assert kept == ([True, False] * 3, [False] * 3, 0)
    assert taken == [0, 1, 2]
    assert (ledger.duplicates, ledger.groups_consumed, ledger.missing) == (6, 3, 0)
    report = audit(tmp_path)
    assert report.violations == []
    assert report.ledger.groups_consumed == 3
