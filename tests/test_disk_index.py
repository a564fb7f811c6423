"""The index on the disk: finds what the one in memory finds, is built once, appears whole."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wfr.retrieval import disk_index
from wfr.retrieval.disk_index import open_index
from wfr.retrieval.memory_index import MemoryIndex
from wfr.retrieval.passages import Skipped, passages
from wfr.tasks.rows import FormatError
from wfr.tasks.source import Document

ROWS = [
    {"title": "Ada", "text": "Ada , job painter"},
    {"title": "Ben", "text": "Ben , job sailor , friend Ada"},
    {"id": 3, "contents": '"Cleo"\nCleo , job judge'},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


words = st.sampled_from(["ada", "ben", "cleo", "dan", "1904"])
phrases = st.lists(words, max_size=5).map(" ".join)
documents = st.lists(
    st.builds(Document, phrases, phrases.filter(str.strip)), min_size=1, max_size=12
)


@given(documents, phrases, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_it_finds_what_the_index_in_memory_finds(tmp_path_factory, corpus, query, top_k):
    directory = tmp_path_factory.mktemp("index")
    rows = [{"title": d.title, "text": d.text} for d in corpus]
    index = open_index(write(directory / "c.jsonl", rows), directory / "indexes")
    assert len(index) == len(corpus)
    assert index.search(query, top_k) == MemoryIndex(corpus).search(query, top_k)


def test_passages_beyond_one_batch_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_index, "_BATCH", 4)
    rows = [{"title": f"t{n}", "text": f"word{n} common"} for n in range(11)]
    index = open_index(write(tmp_path / "c.jsonl", rows), tmp_path / "i")
    for n in range(11):
        assert index.search(f"word{n}", 1)[0].title == f"t{n}"


def test_one_corpus_is_indexed_once_and_a_changed_one_anew(tmp_path):
    corpus, told = write(tmp_path / "c.jsonl", ROWS), []
    for _ in range(3):
        open_index(corpus, tmp_path / "i", lambda what, done: told.append((what, done)))
    assert told == [("reading passages", 3), ("indexing passages", 3)]
    write(corpus, [*ROWS, {"text": "Dan , job cook"}])
    assert open_index(corpus, tmp_path / "i").search("cook", 1)[0].text == "Dan , job cook"
    assert len([path for path in (tmp_path / "i").iterdir() if path.is_dir()]) == 2


def test_every_kind_of_file_gives_the_same_passages(tmp_path):
    expected = [Document("Ada", "Ada , job painter"), Document("Ben", ROWS[1]["text"])]
    table = pa.Table.from_pylist(ROWS[:2])
    pq.write_table(table, tmp_path / "c.parquet")
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    write(tmp_path / "c.jsonl", ROWS[:2])
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "c.jsonl").read_bytes()))
    for path in tmp_path.iterdir():
        assert list(passages(path, Skipped())) == expected, path


def test_search_r1s_contents_begin_with_their_title(tmp_path):
    found = list(passages(write(tmp_path / "c.jsonl", ROWS[2:]), Skipped()))
    assert found == [Document("Cleo", "Cleo , job judge")]


def test_rows_that_are_no_passage_are_counted_and_the_first_is_named(tmp_path):
    path = write(tmp_path / "c.jsonl", [*ROWS, {"title": "x"}, {"text": 3}, {"text": " "}, [1]])
    with path.open("a") as file:
        file.write("{broken\n")
    index = open_index(path, tmp_path / "i")
    assert (index.meta["passages"], index.meta["skipped"]) == (3, 5)
    assert "c.jsonl: line 4: has none of the fields text, contents" in index.meta["first_skipped"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "there is no such file"),
        ("c.jsonl", "", "holds no passage"),
        ("c.jsonl", '{"title": "x"}\n', "holds no passage; the first of 1 other rows: .*line 1"),
        ("c.txt", "text", "expected a name that ends in"),
        ("c.arrow", "no arrow", "is not Arrow"),
    ],
)
def test_a_corpus_that_is_none_is_refused_and_leaves_nothing(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content)
    for _ in range(2):
        with pytest.raises(FormatError, match=says):
            open_index(tmp_path / name, tmp_path / "i")
    left = (tmp_path / "i").glob("*") if (tmp_path / "i").exists() else ()
    assert [path for path in left if path.is_dir() and not path.name.startswith(".")] == []


def _build(corpus, directory, queue):
    queue.put(len(open_index(corpus, directory, lambda what, done: queue.put(what))))


def test_builders_of_one_index_wait_for_the_first(tmp_path):
    corpus = write(tmp_path / "c.jsonl", ROWS)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    builders = [
        context.Process(target=_build, args=(corpus, tmp_path / "i", queue)) for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    said = [queue.get(timeout=10) for _ in range(5)]
    assert sorted(map(str, said)) == ["3", "3", "3", "indexing passages", "reading passages"]


def _die(corpus, directory):
    def progress(what, done):
        if what.startswith("indexing"):
            os.kill(os.getpid(), signal.SIGKILL)

    open_index(corpus, directory, progress)


def test_a_builder_that_is_killed_leaves_nothing_that_looks_whole(tmp_path):
    corpus = write(tmp_path / "c.jsonl", ROWS)
    killed = multiprocessing.get_context("spawn").Process(
        target=_die, args=(corpus, tmp_path / "i")
    )
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert not [p for p in (tmp_path / "i").iterdir() if p.is_dir() and p.name[0] != "."]
    assert open_index(corpus, tmp_path / "i").search("judge", 1)[0].title == "Cleo"
    assert not list((tmp_path / "i").glob(".*"))


def test_a_common_word_does_not_sort_the_whole_corpus(tmp_path):
    """The best of 200,000 equal scores are the first ones, found in linear time."""
    import numpy as np

    from wfr.retrieval.ranking import best

    scores = np.ones(200_000, np.float32)
    scores[150_000] = 2
    started = time.process_time()
    assert best(scores, 3) == [150_000, 0, 1]
    assert time.process_time() - started < 0.5
