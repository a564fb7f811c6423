"""Progress: plain lines where there is no terminal, results never on stdout, texts as they are."""

from __future__ import annotations

import pytest

from cluster.progress import Progress

RECORD = {
    "step": 3,
    "tokens/generated": 500,
    "lag/histogram": {0: 2, 1: 1},
    "reward/mean": -0.25,
    "reward/correct": 0.5,
    "learner/step_seconds": 1.5,
    "publish/seconds": 0.25,
}


@pytest.mark.parametrize("text", ["[/usr/lib/x.so] is gone", "ray[default]", "[Errno 104] reset"])
def test_notes_are_printed_as_they_are(capsys, text):
    Progress().note(text)
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_a_step_in_one_line(capsys):
    Progress().step(RECORD, 60)
    (line,) = " ".join(capsys.readouterr().err.split()).split("\n")
    for words in ("training 3/60", "reward -0.25", "EM 0.50", "lag 0:2 1:1", "publish 0.25 s"):
        assert words in line


def test_an_evaluation_names_every_skill(capsys):
    Progress().evaluated("before", {"em": 0.5, "skills": {"hop1": 0.25, "[odd]": 0.75}})
    text = " ".join(capsys.readouterr().err.split())
    assert "exact match before training: 0.500 (hop1 0.25 [odd] 0.75)" in text


def test_quiet_prints_nothing(capsys):
    progress = Progress(quiet=True)
    progress.phase("training")
    progress.note("lost")
    progress.step(RECORD, 60)
    progress.close()
    assert capsys.readouterr() == ("", "")
