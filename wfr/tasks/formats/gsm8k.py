"""GSM8K: worked solutions whose last line is `#### number`."""

from __future__ import annotations

from wfr.grading.gsm8k import final_number
from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task


def task(row: Fields) -> Task:
    """From `question` and `answer`."""
    question, solution = row.text("question"), row.text("answer")
    gold = final_number(solution)
    if gold is None:
        raise row.wrong("answer", "a final number after '#### '", solution)
    return Task(identity("gsm8k", question), question, (gold,), "gsm8k", "gsm8k", "gsm8k")
