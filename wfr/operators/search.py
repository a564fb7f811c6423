"""Search: BM25 (bm25s) over the task's own passages or the corpus that all tasks share."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Sequence

import bm25s
import numpy as np

from wfr.config import SearchConfig
from wfr.operators.base import OperatorSpec, Outcome, Scope, read_inputs
from wfr.operators.meter import Meter
from wfr.operators.values import NodeInput, NodeOutcome, Value
from wfr.tasks.source import Document
from wfr.trajectory import OperatorCall

_WORD = re.compile(r"\w+")
_EXTRA_TITLES = 3
_NOTHING_FOUND = "no results"

SPEC = OperatorSpec(
    name="Search",
    category="search",
    description=(
        "Looks up passages that share words with a query. Use it for every fact that is not "
        "already known; name the person, place or thing you want to read about."
    ),
    usage="Search: QUERY",
    as_node="Looks up passages that share words with your prompt, or else with the problem.",
)


class Index:
    """A BM25 index (k1 1.2, b 0.5); a title counts three times on top of the text.

    >>> Index([Document("Ape", "Ape city , river Egl")]).search("river of Ape", 1)[0].title
    'Ape'
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        """Index the documents; there may be none."""
        self._documents = documents
        words = [_words(d.text) + _words(d.title) * _EXTRA_TITLES for d in documents]
        self._bm25: bm25s.BM25 | None = None
        if any(words):
            self._bm25 = bm25s.BM25(k1=1.2, b=0.5, method="lucene", backend="numpy")
            self._bm25.index(words, show_progress=False)

    def search(self, query: str, top_k: int) -> list[Document]:
        """At most `top_k` documents that share a word with the query, best first.

        Equal scores go to the earlier document.
        """
        if self._bm25 is None:
            return []
        ids = self._bm25.get_tokens_ids(_words(query))
        scores = self._bm25.get_scores_from_ids(ids)
        if top_k == 1:
            best = int(scores.argmax())
            return [self._documents[best]] if scores[best] > 0 else []
        found = np.flatnonzero(scores > 0)
        order = found[np.argsort(-scores[found], kind="stable")]
        return [self._documents[i] for i in order[:top_k]]


class Search:
    """The Search operator; an index is built once per corpus and kept."""

    spec = SPEC

    def __init__(
        self, config: SearchConfig, corpus: Sequence[Document], kept_indexes: int = 64
    ) -> None:
        """Index the shared corpus now; keep the indexes of the last `kept_indexes` tasks."""
        self._config = config
        self._shared = Index(corpus)
        self._own: OrderedDict[str, Index] = OrderedDict()
        self._kept = kept_indexes
        self.parameters = f"{config.top_k} {config.style}"

    async def run(self, inputs: NodeInput, scope: Scope, meter: Meter) -> NodeOutcome:
        """Find passages for the node's prompt, or for the problem where it has none."""
        meter.claim()
        outcome = await self.call(inputs.instruction.strip() or inputs.problem, scope)
        meter.record(outcome.call)
        return NodeOutcome(Value(outcome.text))

    async def call(self, argument: str, scope: Scope) -> Outcome:
        """Find passages; raises ArgumentError for an empty query."""
        query = read_inputs(self.spec, argument)["content"][0]
        started = time.perf_counter()
        found = self._index(scope).search(query, self._config.top_k)
        call = OperatorCall(self.spec.name, "bm25", time.perf_counter() - started)
        return Outcome(self._show(query, found), call)

    def _index(self, scope: Scope) -> Index:
        if not scope.corpus:
            return self._shared
        index = self._own.pop(scope.task_id, None) or Index(scope.corpus)
        self._own[scope.task_id] = index
        if len(self._own) > self._kept:
            self._own.popitem(last=False)
        return index

    def _show(self, query: str, found: Sequence[Document]) -> str:
        if not found:
            return _NOTHING_FOUND
        if self._config.style == "text":
            return "\n".join(d.text for d in found)
        hits = (f"{i}. Title: {d.title}\nSnippet: {d.text}" for i, d in enumerate(found, 1))
        return "\n\n".join([f"Search results for '{query}':", *hits])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
