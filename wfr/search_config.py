"""Configuration: what the Search operator searches."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section


class SearchConfig(Section):
    """The Search operator: a BM25 index, or the web."""

    engine: Literal["bm25", "web"] = "bm25"
    """`bm25`: the passages of the task, of `corpus`, or of the task source; `web`: the executor
    backend that `executor.operators.Search` names."""
    corpus: str | None = None
    """JSONL, CSV, Parquet or Arrow file, or directory, of passages (`text` or `contents`, `title`)
    that all tasks share; none: those that the tasks come with. Indexed once, on the disk."""
    index_dir: str = "~/.cache/wfr/search"
    """Where such indexes lie; on a cluster, on a disk that all machines with workers see, or each
    machine builds its own."""
    top_k: int = Field(1, ge=1, le=50)
    """Passages returned per query."""
    style: Literal["text", "titled"] = "titled"
    """`titled`: numbered titles and snippets; `text`: the passages alone, one per line."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.engine == "web" and self.corpus is not None:
            raise ValueError(
                f"engine='web' contradicts corpus={self.corpus!r}: the web has its own passages"
            )
        return self
