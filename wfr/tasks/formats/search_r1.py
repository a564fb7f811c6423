"""Search-R1's parquet: NQ and HotpotQA questions with their golds in `reward_model`."""

from __future__ import annotations

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `question`, `data_source` and `golden_answers` or `reward_model.ground_truth.target`."""
    question = row.text("question")
    source = row.text("data_source", default="search_r1").split("/")[-1]
    if "golden_answers" in row:
        golds = row.texts("golden_answers")
    else:
        golds = row.mapping("reward_model").mapping("ground_truth").texts("target")
    name = row.text("id", default="") or identity(source, question)
    return Task(name, question, golds, source, source, "qa_em")
