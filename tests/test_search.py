"""BM25 search: against a slow scorer, ties, styles, per-task corpora, and its speed."""

from __future__ import annotations

import asyncio
import collections
import math
import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.operators.base import ArgumentError, Scope
from wfr.operators.search import Search
from wfr.retrieval.memory_index import MemoryIndex
from wfr.search_config import SearchConfig
from wfr.tasks.source import Document

WORDS = st.sampled_from(["ada", "ben", "cleo", "dan", "eva", "1904"])
PHRASES = st.lists(WORDS, max_size=6).map(" ".join)
CORPORA = st.lists(st.builds(Document, PHRASES, PHRASES), max_size=12)


def slow_scores(documents, query, k1=1.2, b=0.5):
    """BM25 as Lucene defines it, one term and one document at a time."""
    words = [
        re.findall(r"\w+", f"{d.text} {d.title} {d.title} {d.title}".lower()) for d in documents
    ]
    mean = sum(map(len, words)) / len(words)
    scores = [0.0] * len(words)
    for term in re.findall(r"\w+", query.lower()):
        containing = sum(term in bag for bag in words)
        idf = math.log(1 + (len(words) - containing + 0.5) / (containing + 0.5))
        for index, bag in enumerate(words):
            count = collections.Counter(bag)[term]
            if count:
                scores[index] += idf * count / (count + k1 * (1 - b + b * len(bag) / mean))
    return scores


@given(CORPORA, PHRASES, st.integers(1, 5))
def test_ranks_like_a_slow_scorer(documents, query, top_k):
    found = MemoryIndex(documents).search(query, top_k)
    if not any(d.text or d.title for d in documents):
        assert found == []
        return
    scores = slow_scores(documents, query)
    best = sorted((s for s in scores if s > 0), reverse=True)[:top_k]
    by_document = {id(d): s for d, s in zip(documents, scores, strict=True)}
    assert [by_document[id(d)] for d in found] == pytest.approx(best, rel=1e-4)


def test_ties_go_to_the_earlier_document():
    documents = [Document("x", "other"), *(Document("Ada", f"twin {n}") for n in "abc")]
    index = MemoryIndex(documents)
    assert [d.text for d in index.search("twin ada", 2)] == ["twin a", "twin b"]
    assert index.search("twin ada", 1)[0].text == "twin a"


def test_a_title_outweighs_a_mention():
    documents = [Document("Ben", "ben is a friend of ada"), Document("Ada", "somebody")]
    assert MemoryIndex(documents).search("ada", 1)[0].title == "Ada"


@pytest.mark.parametrize("query", ["", "zzz", "?!", "\x00"])
def test_nothing_found(query):
    assert MemoryIndex([Document("Ada", "text")]).search(query, 3) == []
    assert MemoryIndex([]).search(query, 3) == []


def ask(search, query, scope=None):
    return asyncio.run(search.call(query, scope or Scope("t")))


CORPUS = (Document("Ada", "Ada , job painter"), Document("Ben", "Ben , job sailor"))


def test_style_text_is_the_passage_alone():
    outcome = ask(Search(SearchConfig(top_k=1, style="text"), MemoryIndex(CORPUS)), "Ada")
    assert outcome.text == "Ada , job painter"
    assert (outcome.call.operator, outcome.call.backend) == ("Search", "bm25")
    two = ask(Search(SearchConfig(top_k=2, style="text"), MemoryIndex(CORPUS)), "job Ben")
    assert two.text == "Ben , job sailor\nAda , job painter"


def test_style_titled_numbers_the_hits():
    outcome = ask(Search(SearchConfig(top_k=2, style="titled"), MemoryIndex(CORPUS)), "job Ben")
    assert outcome.text == (
        "Search results for 'job Ben':\n\n1. Title: Ben\nSnippet: Ben , job sailor\n\n"
        "2. Title: Ada\nSnippet: Ada , job painter"
    )


def test_no_hit_says_so_and_no_query_is_an_argument_error():
    search = Search(SearchConfig(), MemoryIndex(CORPUS))
    assert ask(search, "zzz").text == "no results"
    with pytest.raises(ArgumentError, match="Search: QUERY"):
        ask(search, "  ")


def test_a_task_searches_its_own_corpus():
    search = Search(SearchConfig(style="text"), MemoryIndex(CORPUS))
    own = Scope("own", (Document("Ada", "another ada"),))
    assert ask(search, "Ada", own).text == "another ada"
    assert ask(search, "Ada").text == "Ada , job painter"


def test_indexes_of_tasks_are_kept_but_not_for_ever(monkeypatch):
    built = []
    monkeypatch.setattr(
        "wfr.operators.search.MemoryIndex", lambda d: built.append(d) or MemoryIndex(d)
    )
    search = Search(SearchConfig(), MemoryIndex(()), kept_indexes=2)
    scopes = [Scope(str(n), (Document("Ada", str(n)),)) for n in range(3)]
    for scope in (scopes[0], scopes[1], scopes[0], scopes[2], scopes[0], scopes[1]):
        ask(search, "Ada", scope)
    assert built == [scopes[n].corpus for n in (0, 1, 2, 1)]


def test_a_query_over_300_documents_takes_well_under_a_millisecond():
    draw = random.Random(1)
    names = [f"{a}{b}{n}" for a in "bcdfg" for b in "aeiou" for n in range(20)]
    documents = [
        Document(name, f"{name} , job {draw.choice(names)} , home {draw.choice(names)}")
        for name in draw.choices(names, k=300)
    ]
    index = MemoryIndex(documents)
    started = time.process_time()
    for name in names[:200]:
        index.search(f"{name} job", 1)
    assert (time.process_time() - started) / 200 < 1e-3
