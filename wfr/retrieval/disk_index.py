"""An index on the disk, for corpora of millions of passages: built once, mapped by every process.

It lies in a directory named by a digest of the corpus' bytes and of how it was indexed, so another
corpus, or another way to index, has another directory, and the same one is found again. It appears
whole or not at all; who wants an index that another process is building waits for it.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import xxhash

from wfr.retrieval.bm25 import bm25s
from wfr.retrieval.passages import Skipped, files, passages
from wfr.retrieval.ranking import K1, TITLE_COUNTS, B, best, words
from wfr.tasks.rows import FormatError
from wfr.tasks.source import Document

_SETTINGS = f"1 {K1} {B} {TITLE_COUNTS}"
_PASSAGES, _META = "passages.arrow", "meta.json"
_SCHEMA = pa.schema([("title", pa.string()), ("text", pa.string())])
_BATCH = 4096
_CHUNK = 1 << 22


class DiskIndex:
    """BM25 over passages that stay on the disk; resident are the vocabulary and what is in use."""

    def __init__(self, directory: Path) -> None:
        """Map the index in `directory`."""
        self._bm25 = bm25s.BM25.load(str(directory), mmap=True, show_progress=False)
        self._passages = pa.ipc.open_file(pa.memory_map(str(directory / _PASSAGES)))
        self.meta = json.loads((directory / _META).read_text(encoding="utf-8"))

    def __len__(self) -> int:
        """Count of passages."""
        return int(self.meta["passages"])

    def search(self, query: str, top_k: int) -> list[Document]:
        """At most `top_k` passages that share a word with the query, best first.

        Equal scores go to the earlier passage.
        """
        ids = self._bm25.get_tokens_ids(words(query))
        if not len(ids):
            return []
        return [self._passage(i) for i in best(self._bm25.get_scores_from_ids(ids), top_k)]

    def _passage(self, index: int) -> Document:
        batch = self._passages.get_batch(index // _BATCH)
        row = index % _BATCH
        return Document(batch.column(0)[row].as_py(), batch.column(1)[row].as_py())


def open_index(
    corpus: str | Path, directory: str | Path, progress: Callable[[str, int], None] | None = None
) -> DiskIndex:
    """The index of a corpus under `directory`, built now if it is not there.

    `progress` is told what is being done and the passages done so far.

    Raises:
        FormatError: the corpus cannot be read, or holds no passage.
    """
    path, root = Path(corpus), Path(directory).expanduser()
    if not path.exists():
        raise FormatError(f"{path}: there is no such file or directory")
    root.mkdir(parents=True, exist_ok=True)
    name = digest(path)
    with _alone(root / f"{name}.lock"):
        if not (root / name).is_dir():
            _build(path, root, name, progress or _silent)
    return DiskIndex(root / name)


def digest(corpus: Path) -> str:
    """What tells an index from others: the bytes of the corpus, and how it is indexed."""
    found = xxhash.xxh3_128(_SETTINGS.encode())
    for file in files(corpus):
        found.update(file.name.encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
    return found.hexdigest()


def _build(corpus: Path, root: Path, name: str, progress: Callable[[str, int], None]) -> None:
    temporary = root / f".{name}.tmp-{os.getpid()}"
    for left in root.glob(f".{name}.tmp-*"):
        shutil.rmtree(left)  # of a builder that died: nobody else builds this one now
    temporary.mkdir()
    skipped, vocabulary = Skipped(), dict[str, int]()
    ids: list[array.array[int]] = []
    with pa.OSFile(str(temporary / _PASSAGES), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as out:
        for batch in _batches(passages(corpus, skipped)):
            for document in batch:
                text = words(document.text) + words(document.title) * TITLE_COUNTS
                ids.append(
                    array.array("i", [vocabulary.setdefault(w, len(vocabulary)) for w in text])
                )
            out.write_batch(
                pa.record_batch([[d.title for d in batch], [d.text for d in batch]], schema=_SCHEMA)
            )
            progress("reading passages", len(ids))
    if not vocabulary:
        shutil.rmtree(temporary)
        why = f"; the first of {skipped.count} other rows: {skipped.first}" if skipped.count else ""
        raise FormatError(f"{corpus}: holds no passage{why}")
    progress("indexing passages", len(ids))
    bm25 = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    bm25.index((ids, vocabulary), show_progress=False)
    bm25.save(str(temporary), show_progress=False)
    meta = {
        "passages": len(ids),
        "words": sum(map(len, ids)),
        "skipped": skipped.count,
        "first_skipped": skipped.first,
    }
    (temporary / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    temporary.rename(root / name)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Batches of one size, but for the last: a passage is found by its number."""
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that dies with its process."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _silent(what: str, done: int) -> None:
    """Tell nobody."""
