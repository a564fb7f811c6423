"""FlowSteer's JSON lines: problems of six sources in one file."""

from __future__ import annotations

import json

from wfr.tasks.formats.fields import Fields, identity
from wfr.tasks.source import Task

_METRICS = {"qa": "qa_em", "math": "math", "code": "hidden_tests"}
_NO_ANSWER = frozenset({"", "unanswerable", "none", "no answer"})


def task(row: Fields) -> Task:
    """From `problem`, `problem_type`, `source`, `ground_truth` and `meta`."""
    problem, source = row.text("problem"), row.text("source")
    kind = row.text("problem_type").lower()
    if kind not in _METRICS:
        raise row.wrong("problem_type", f"one of {', '.join(_METRICS)}", kind)
    truth = row.row.get("ground_truth")
    if isinstance(truth, (int, float)) and not isinstance(truth, bool):
        truth = row.number("ground_truth")
    if not isinstance(truth, str):
        raise row.wrong("ground_truth", "text or a number", truth)
    meta = dict(row.row["meta"]) if isinstance(row.row.get("meta"), dict) else {}
    answers = tuple(part.strip() for part in truth.split("|") if part.strip())
    metric = "gsm8k" if source == "gsm8k" else _METRICS[kind]
    if kind == "qa" and truth.strip().lower() in _NO_ANSWER:
        answers, metric = (), "squad_v2"
    tests = _tests(meta) if kind == "code" else ()
    if kind == "code" and not tests:
        raise row.wrong("meta", "`test` or `test_list` of a code problem", meta)
    if kind != "code" and not answers and metric != "squad_v2":
        raise row.wrong("ground_truth", "an answer", truth)
    return Task(
        identity(source, problem),
        problem,
        () if kind == "code" else answers,
        source,
        kind,
        metric,
        tests=tests,
        meta={"problem_type": kind, **{key: _plain(value) for key, value in meta.items()}},
    )


def _tests(meta: dict[str, object]) -> tuple[str, ...]:
    listed = meta.get("test_list") or meta.get("test") or ()
    if isinstance(listed, str):
        name = meta.get("entry_point")
        call = (f"check({name})",) if name and "def check(" in listed else ()
        return (listed, *call)
    return tuple(map(str, listed)) if isinstance(listed, (list, tuple)) else ()


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
