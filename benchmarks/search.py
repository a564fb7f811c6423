"""Search over a corpus on the disk: building its index, a query, and what stays in memory.

A million synthetic passages of 60 words, drawn from 200,000 words by Zipf's law, as those of a
language are. A query has three words of a passage that there is, one of them common. Each query is
asked once by a process that has just mapped the index, so most of what it needs comes from the
page cache of the system, which is shared by all who map it; growth of memory is that which this
process has for itself (unique set size).
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import Result, at_most, figure
from wfr.retrieval.disk_index import open_index

_PASSAGES, _WORDS, _VOCABULARY = 1_000_000, 60, 200_000
_QUERIES = 200


def run(quick: bool) -> Result:
    """Build the index, map it, ask."""
    count = 5_000 if quick else _PASSAGES
    with tempfile.TemporaryDirectory() as directory:
        corpus = Path(directory) / "corpus.jsonl"
        queries = _write(corpus, count)
        started = time.perf_counter()
        open_index(corpus, Path(directory) / "indexes")
        build = time.perf_counter() - started
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as new:
            asked = new.submit(_ask, corpus, Path(directory) / "indexes", queries)
            opened, mapped, growth, seconds = asked.result()
    milliseconds = [1e3 * value for value in seconds]
    tail = float(np.quantile(milliseconds, 0.99))
    return Result(
        [
            figure("query, top 3", milliseconds, "ms", at_most(10)),
            figure("query, 99th percentile", [tail], "ms"),
            figure("building the index", [build], "s"),
            figure("opening it again, digest of the corpus included", [opened], "s"),
            figure("own memory, opened", [mapped / 2**20], "MiB"),
            figure("own memory after all queries", [growth / 2**20], "MiB"),
        ],
        setup={"passages": count, "words": _WORDS, "vocabulary": _VOCABULARY, "queries": _QUERIES},
        peers=("bm25s",),
    )


def _ask(
    corpus: Path, indexes: Path, queries: Sequence[str]
) -> tuple[float, int, int, list[float]]:
    """In a process of its own: seconds to open, bytes then and after all queries, seconds each."""
    process = psutil.Process()
    before = process.memory_full_info().uss
    started = time.perf_counter()
    index = open_index(corpus, indexes)
    opened = time.perf_counter() - started
    mapped = process.memory_full_info().uss - before
    seconds = []
    for query in queries:
        started = time.perf_counter()
        found = index.search(query, 3)
        seconds.append(time.perf_counter() - started)
        assert found, query
    return opened, mapped, process.memory_full_info().uss - before, seconds


def _write(path: Path, count: int) -> list[str]:
    """The corpus, and queries of which each has an answer in it."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, _VOCABULARY + 1)
    edges = np.cumsum(weights / weights.sum())
    chosen = set(rng.integers(0, count, _QUERIES).tolist())
    queries = []
    with path.open("w", encoding="utf-8") as file:
        for number, drawn in enumerate(itertools.islice(_drawn(rng, edges), count)):
            words = [f"w{word}" for word in drawn]
            row = {"title": f"t{number}", "text": " ".join(words)}
            file.write(json.dumps(row) + "\n")
            if number in chosen:
                queries.append(" ".join(["w3", *rng.choice(words, 2)]))
    return queries


def _drawn(rng: np.random.Generator, edges: np.ndarray) -> Iterator[np.ndarray]:
    """Words of one passage after another, by number."""
    while True:
        block = np.searchsorted(edges, rng.random((1024, _WORDS)))
        yield from np.minimum(block, _VOCABULARY - 1)
