"""The replay buffer: put and take of real trajectories, against TransferQueue and a Ray queue.

128 groups of 8 trajectories of up to 8k tokens (`recorded.py`) go from one process to another,
eight puts at a time, and are taken as one batch and made into tensors. All sides carry the same.
Ours asks for a slot for each group, and books it in a ledger. TransferQueue (SimpleStorage, its
default configuration) starts from the arrays of the token columns; all that is no token column
travels as one field of bytes, made before the clock starts. Beside it ours joins the same arrays
and finds its other columns made, too. The queue carries the trajectory objects; beside it ours
makes whole record batches of such objects. Lists of numbers are made before the clock starts.
Also: reading a batch, its references fetched inside the clock, against copying its bytes to new
memory; many producers at once, the size of the index, and spilling.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.util.queue import Queue

from benchmarks.buffer_sides import AT_ONCE, Consumer, Index, MeasuredBuffer, Producer
from benchmarks.harness import Figure, Result, at_least, at_most, figure, interleave, ratio
from cluster.remote import Remote, host
from wfr.selection import Rules
from wfr.simulation import FakeCluster, groups_per_second

_OPTIONS = {"num_cpus": 0, "max_concurrency": 1000}
_GIB = 2**30


def run(quick: bool) -> Result:
    """Measure everything in one Ray cluster of this machine."""
    spill = tempfile.mkdtemp(prefix="wfr-spill-")
    ray.init(
        num_cpus=8,  # TransferQueue waits for ever where its storage finds no free one
        object_store_memory=(1 if quick else 4) * _GIB,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={"worker_niceness": 0},  # 15 by default: any other process would go first
    )
    try:
        return _Measurement(quick, spill).run()
    finally:
        ray.shutdown()
        shutil.rmtree(spill, ignore_errors=True)


class _Measurement:
    def __init__(self, quick: bool, spill: str) -> None:
        self._quick = quick
        self._spill = spill
        self._buffers = 0
        self._count, self._size, self._longest = (8, 4, 1024) if quick else (128, 8, 8192)
        self._repeats = 2 if quick else 5
        actor: Any = ray.remote(Producer).options(**_OPTIONS)
        self._producer: Any = actor.remote(self._count, self._size, self._longest)
        self._consumer: Any = ray.remote(Consumer).options(num_cpus=0).remote()
        self._bytes, self._token_bytes = ray.get(self._producer.sizes.remote())

    def run(self) -> Result:
        import transfer_queue

        transfer_queue.init()
        figures = [*self._put_and_take(), *self._reading()]
        transfer_queue.close()
        figures += [*self._many_producers(), *self._index(), *self._spilling(), *_shards()]
        return Result(
            figures,
            setup={
                "groups": self._count,
                "siblings": self._size,
                "longest": self._longest,
                "bytes": self._bytes,
                "bytes of token columns": self._token_bytes,
                "puts at a time": AT_ONCE,
                "TransferQueue": "SimpleStorage, 2 storage units (default), a put per group, one "
                "get, jagged tensors",
            },
            peers=("TransferQueue", "tensordict"),
        )

    def _buffer(self, groups: int, memory: int = 1 << 60) -> Remote:
        self._buffers += 1
        directory = f"{self._spill}/{self._buffers}"
        settings = {"memory_bytes": memory}
        places = f"{directory}/spill", f"{directory}/ledger.jsonl", "off"
        return host(MeasuredBuffer, Rules(0, groups), settings, *places, options=_OPTIONS)

    # ---- put and take

    def _put_and_take(self) -> list[Figure]:
        phases: dict[str, list[tuple[float, float]]] = {}

        def side(name: str, put: Any, take: Any) -> Any:
            def once() -> float:
                seconds = ray.get(put())
                taken, total = ray.get(take())
                assert total == self._token_bytes, (name, total, self._token_bytes)
                phases.setdefault(name, []).append((seconds, taken))
                return float(seconds + taken)

            return once

        buffer = self._buffer(self._count)
        queue = Queue(actor_options={"num_cpus": 0})
        producer, consumer = self._producer, self._consumer
        samples = interleave(
            {
                "arrow": side(
                    "arrow",
                    lambda: producer.put_arrow.remote(buffer, "nothing"),
                    lambda: consumer.take_arrow.remote(buffer),
                ),
                "arrow_rest": side(
                    "arrow, rest made",
                    lambda: producer.put_arrow.remote(buffer, "all but tokens"),
                    lambda: consumer.take_arrow.remote(buffer),
                ),
                "transfer_queue": side(
                    "transfer_queue",
                    producer.put_transfer_queue.remote,
                    lambda: consumer.take_transfer_queue.remote(self._count, self._size),
                ),
                "lists": side(
                    "lists",
                    lambda: producer.put_queue.remote(queue, lists=True),
                    lambda: consumer.take_queue.remote(queue, self._count),
                ),
                "objects": side(
                    "objects",
                    lambda: producer.put_queue.remote(queue, lists=False),
                    lambda: consumer.take_queue.remote(queue, self._count),
                ),
            },
            repeats=self._repeats,
        )
        buffer.kill()
        queue.shutdown()
        phases = {name: values[-self._repeats :] for name, values in phases.items()}
        ours = samples["arrow"]
        return [
            ratio(
                "put + take, TransferQueue ÷ ours",
                samples["transfer_queue"],
                samples["arrow_rest"],
                at_least(5),
                note="both join token arrays; the rest was made before",
            ),
            ratio(
                "put + take, TransferQueue with the rest made ÷ ours with nothing made",
                samples["transfer_queue"],
                ours,
            ),
            ratio(
                "put + take, objects with lists of numbers through a Ray queue ÷ ours",
                samples["lists"],
                ours,
                at_least(10),
            ),
            ratio(
                "put + take, objects with arrays through a Ray queue ÷ ours",
                samples["objects"],
                ours,
            ),
            *(
                figure(f"{phase}, {name}", [value[index] * 1e3 for value in values], "ms")
                for name, values in phases.items()
                for index, phase in enumerate(("put", "take"))
            ),
        ]

    # ---- reading

    def _reading(self) -> list[Figure]:
        buffer = self._buffer(self._count)
        mapped: list[float] = []
        packed: list[float] = []
        copied: list[float] = []
        for turn in range(1 + self._repeats):
            ray.get(self._producer.put_arrow.remote(buffer, "all"))
            found = ray.get(self._consumer.read_against_memcpy.remote(buffer))
            if turn:
                for values, value in zip((mapped, packed, copied), found, strict=True):
                    values.append(value)
        buffer.kill()
        note = "of the token columns"
        return [
            ratio("reading a batch as tensors ÷ memcpy", mapped, copied, at_most(2), note=note),
            ratio("reading and joining its rows ÷ memcpy", packed, copied, at_most(2), note=note),
        ]

    # ---- many producers

    def _many_producers(self) -> list[Figure]:
        each = 4 if self._quick else 6
        every = 0.2 if self._quick else 3.0
        values: dict[str, list[np.ndarray]] = {"paced": [], "saturated": []}
        for turn in range(1 + (1 if self._quick else 2)):
            for name, pause in (("paced", every), ("saturated", 0.0)):
                seconds = self._latencies(each if pause else max(2, each // 2), pause)
                if turn:
                    values[name].append(1e3 * np.percentile(seconds, 99, axis=0))
        slots, puts = (
            {name: [float(each[part]) for each in found] for name, found in values.items()}
            for part in (0, 1)
        )
        rate = 64 / every
        return [
            figure(
                "p99 of a put, 64 producers",
                puts["paced"],
                "ms",
                at_most(20),
                note=f"{rate:.0f} groups/s at random moments; every group is taken afterwards",
            ),
            figure("p99 of asking for a slot that is free, before it", slots["paced"], "ms"),
            figure(
                "p99 of a put, 64 producers without pause",
                puts["saturated"],
                "ms",
                note="a queue of 64 at a machine that is busy throughout",
            ),
        ]

    def _latencies(self, each: int, every: float) -> list[tuple[float, float]]:
        processes, producers = 4, 16
        total = processes * producers * (1 + each)
        buffer = self._buffer(total)
        actor: Any = ray.remote(Producer).options(**_OPTIONS)
        actors = [actor.remote(4, self._size, self._longest, seed) for seed in range(processes)]
        ray.get([actor.sizes.remote() for actor in actors])
        for count, pause in ((1, 0.0), (each, every)):  # first all processes get to know each other
            parts = ray.get(
                [actor.put_latency.remote(buffer, producers, count, pause) for actor in actors]
            )
        ray.get(self._consumer.take_arrow.remote(buffer))
        ledger = ray.get(buffer.handle.ledger.remote())
        assert ledger.groups_consumed == ledger.groups_admitted == total
        assert ledger.missing == 0
        for actor in [*actors, buffer.handle]:
            ray.kill(actor)
        return [seconds for part in parts for seconds in part]

    # ---- index

    def _index(self) -> list[Figure]:
        count = 20_000 if self._quick else 1_000_000
        index: Any = ray.remote(Index).options(**_OPTIONS).remote()
        taken, seconds = ray.get(index.fill.remote(count, 128))
        ray.kill(index)
        gib = taken / _GIB * 1_000_000 / count
        return [
            figure("index of 1 million groups", [gib], "GiB", at_most(1)),
            figure("taking 128 of them", [seconds * 1e3], "ms"),
        ]

    # ---- spilling

    def _spilling(self) -> list[Figure]:
        few = 4 if self._quick else max(1, _GIB // self._bytes)
        many = 8 if self._quick else 10 * _GIB // self._bytes + 1
        samples = interleave(
            {"memory": lambda: self._through(few, 0).seconds, "disk": self._spill_tenths(few)},
            repeats=1 if self._quick else 2,
        )
        large = self._through(many, many * self._bytes // 10)
        rate = statistics.median(samples["memory"]) / few
        size = f"{few * self._bytes / _GIB:.2g} GiB, of which a tenth may be in memory"
        large_size = f"{many * self._bytes / _GIB:.3g} GiB, of which a tenth may be in memory"
        return [
            ratio(
                "throughput, spilled ÷ all in memory",
                samples["memory"],
                samples["disk"],
                at_least(0.5),
                note=f"{size}; put, take, map, and read every byte",
            ),
            figure(
                "the same with 10 GiB",
                [rate * many / large.seconds],
                "×",
                at_least(0.5),
                note=f"{large_size}; against the smaller size all in memory",
            ),
            figure(
                "most bytes in the object store ÷ bound, while spilling 10 GiB",
                [large.peak],
                "×",
                at_most(1.1),
                note=f"the groups on their way included, {AT_ONCE} at a time",
            ),
            figure("private memory of the buffer's process after it", [large.private], "MiB"),
        ]

    def _spill_tenths(self, times: int) -> Callable[[], float]:
        return lambda: self._through(times, times * self._bytes // 10).seconds

    def _through(self, times: int, bound: int) -> _Passage:
        """Put all groups so many times, take and read them; a `bound` of 0 is none."""
        buffer = self._buffer(times * self._count, bound or 1 << 60)
        before = _store_bytes()
        with _Peak() as peak:
            put = ray.get(self._producer.put_arrow.remote(buffer, "all", times))
        if bound:
            kept = ray.get(buffer.handle.memory.remote())
            assert kept.resident <= bound
            assert kept.spilled == times * self._bytes - kept.resident
        private = ray.get(buffer.handle.private.remote()) / 2**20
        taken, _ = ray.get(self._consumer.take_arrow.remote(buffer, touch=True))
        buffer.kill()
        return _Passage(put + taken, (peak.value - before) / max(1, bound), private)


@dataclasses.dataclass(frozen=True, slots=True)
class _Passage:
    """Seconds, the most bytes in the object store ÷ bound, and MiB of the buffer's process."""

    seconds: float
    peak: float
    private: float


def _shards() -> list[Figure]:
    one = groups_per_second(FakeCluster(), 1)
    note = f"virtual time, a call occupies a shard for {FakeCluster().call_s * 1e3:g} ms"
    return [
        figure(
            f"groups per second, {shards} shards ÷ 1 (simulated)",
            [groups_per_second(FakeCluster(), shards) / one],
            "×",
            note=note,
        )
        for shards in (2, 4)
    ]


class _Peak:
    """The largest use of the object store while the block runs."""

    def __enter__(self) -> _Peak:
        self.value = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.value = max(self.value, _store_bytes())
            time.sleep(0.05)


def _store_bytes() -> int:
    from ray._private.internal_api import node_stats

    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    stats: Any = node_stats(*address)  # type: ignore[no-untyped-call]
    return int(stats.store_stats.object_store_bytes_used)
