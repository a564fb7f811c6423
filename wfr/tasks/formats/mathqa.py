"""MathQA: word problems with five options in one string."""

from __future__ import annotations

import json
import re

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task

_OPTION = re.compile(r"(?:^|,|\[|')\s*'?([a-e])\s*\)\s*")


def task(row: Fields) -> Task:
    """From `Problem`, `options` (`a ) 38 , b ) 27 ...`) and `correct`."""
    problem, text = row.text("Problem"), row.text("options")
    options = parse_options(text)
    correct = row.text("correct").lower()
    if len(options) < 2:
        raise row.wrong("options", "`a ) ... , b ) ...`", text)
    if correct not in options:
        raise row.wrong("correct", f"one of {', '.join(options)}", correct)
    listed = "\n".join(f"{letter}) {option}" for letter, option in options.items())
    return Task(
        identity("mathqa", problem, text),
        f"{problem}\n{listed}\nAnswer with the letter of the right option.",
        (correct,),
        "mathqa",
        row.text("category", default="mathqa"),
        "choice",
        meta={"options": json.dumps(options)},
    )


def parse_options(text: str) -> dict[str, str]:
    """Option by letter."""
    marks = list(_OPTION.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)][: len(marks)]
    return {
        mark[1]: text[mark.end() : end].strip(" ,'[]")
        for mark, end in zip(marks, ends, strict=True)
    }
