"""Runs for the tests of the inspector, made by hand: what is in them, the tests know."""

from __future__ import annotations

import json

import numpy as np

from wfr.journal import Journal
from wfr.schema import to_batch
from wfr.trajectory import (
    Group,
    Message,
    OperatorCall,
    StopReason,
    Trajectory,
    Turn,
    TurnKind,
    VersionSpan,
)

PAYLOADS = (
    "<script>document.title='owned';window.owned=1</script>",
    '<img src=x onerror="window.owned=1">',
    '"><svg onload=window.owned=1>',
    "<a href='javascript:window.owned=1'>x</a>",
    "javascript:window.owned=1",
    "</pre></main><iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    "<style>*{display:none}</style>",
    "<base href='//evil.example/'><link rel=stylesheet href='//evil.example/x.css'>",
    "\u202ereversed\x00\u2028</think>",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "__proto__",
    "../../../etc/passwd#/group?group=x&sibling=1",
)


def trajectory(
    group=1, sibling=0, *, task="", texts=("<think>a</think><tool>Search: b</tool>",), **given
):
    """An episode of these turns, two tokens each, with an observation of one token after each."""
    size = 3 * len(texts)
    tokens = np.arange(1 + size, dtype=np.int32)
    turn_id = np.array([-1, *[i for n in range(len(texts)) for i in (n, n, -1)]], np.int16)
    version = given.pop("version", 0)
    turns = [
        Turn(1 + 3 * n, 3 + 3 * n, 4 + 3 * n, TurnKind.TOOL, "stop", "Search")
        for n in range(len(texts))
    ]
    messages = [Message("system", "rules"), Message("user", given.pop("question", "who?"))]
    for text in texts:
        messages += [
            Message("assistant", text),
            Message("tool", given.get("seen", "<info>i</info>")),
        ]
    given.pop("seen", None)
    values = {
        "tokens": tokens,
        "turn_id": turn_id,
        "behaviour_logprob": np.where(turn_id >= 0, -0.5, 0).astype(np.float32),
        "version_spans": [
            VersionSpan(turn.start, turn.end, version + n) for n, turn in enumerate(turns)
        ],
        "turns": turns,
        "messages": messages,
        "stop_reason": StopReason.ANSWERED,
        "reward": 0.5,
        "reward_parts": {"correct": 1.0},
        "operator_calls": [OperatorCall("Search", "bm25", 0.5, turn=0, ended_at=101.0)],
        "started_at": 100.0,
        "finished_at": 104.0,
        **given,
    }
    return Trajectory("run", task or f"task-{group}", str(group), sibling, **values)


def group_of(*rows, admitted=0):
    """The record batch of a group."""
    return to_batch(Group(rows[0].group_id, rows[0].task_id, admitted, list(rows)))


def write_run(path, *batches, steps=(), config=None, summary=None, writer="worker-0"):
    """A run directory; `steps` are pairs of the version made and the groups used."""
    path.mkdir(exist_ok=True)
    content = {"run": {"name": "demo"}, "objective": {"advantage": "centred"}}
    (path / "config.json").write_text(json.dumps(config or content))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    with (path / "metrics.jsonl").open("a") as file:
        for version, groups in steps:
            line = {"kind": "step", "version": version, "groups": list(groups)}
            file.write(json.dumps(line) + "\n")
    with Journal(path / "journal" / writer) as journal:
        for batch in batches:
            journal.append(batch)
    return path
