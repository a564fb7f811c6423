"""DS-1000: data-science snippets, run in their own context."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `prompt`, `code_context` and `metadata`."""
    metadata = row.mapping("metadata")
    library = metadata.text("library")
    return Task(
        f"ds1000/{metadata.number('problem_id')}",
        row.raw("prompt").strip(),
        (),
        "ds1000",
        library.lower(),
        "ds1000",
        tests=(row.raw("code_context"),),
    )
