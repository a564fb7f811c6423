"""2WikiMultihopQA: as HotpotQA, with evidence triples that are not read here."""

from __future__ import annotations

import dataclasses

from wfr.tasks.formats import hotpotqa
from wfr.tasks.formats.fields import Fields
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `_id` (or `id`), `question`, `answer`, `type` and `context`."""
    return dataclasses.replace(hotpotqa.task(row), source="2wikimultihopqa")
