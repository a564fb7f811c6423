"""An index in memory, for the passages of one task or of an embedded world."""

from __future__ import annotations

from collections.abc import Sequence

from wfr.retrieval.bm25 import bm25s
from wfr.retrieval.ranking import K1, TITLE_COUNTS, B, best, words
from wfr.tasks.source import Document


class MemoryIndex:
    """A BM25 index (k1 1.2, b 0.5); a title counts three times on top of the text.

    >>> MemoryIndex([Document("Ape", "Ape city , river Egl")]).search("river of Ape", 1)[0].title
    'Ape'
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        """Index the documents; there may be none."""
        self._documents = documents
        texts = [words(d.text) + words(d.title) * TITLE_COUNTS for d in documents]
        self._bm25: bm25s.BM25 | None = None
        if any(texts):
            self._bm25 = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
            self._bm25.index(texts, show_progress=False)

    def search(self, query: str, top_k: int) -> list[Document]:
        """At most `top_k` documents that share a word with the query, best first.

        Equal scores go to the earlier document.
        """
        if self._bm25 is None:
            return []
        scores = self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(words(query)))
        return [self._documents[index] for index in best(scores, top_k)]
