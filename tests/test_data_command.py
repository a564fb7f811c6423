"""`wfr data`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cluster import cli


def wfr(*arguments):
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)])


def line(question, answer="#### 5"):
    return json.dumps({"question": question, "answer": answer})


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*(line(f"How many are {n} and more?") for n in range(20)), "{"]))
    return path


def test_check_counts_shows_and_reports(rows):
    result = wfr("check", rows, "--format", "gsm8k")
    assert result.exit_code == 0
    assert "gsm8k: 20 tasks" in result.stdout
    assert "line 21: is not JSON" in result.stdout
    assert wfr("check", rows, "--format", "gsm8k", "--strict").exit_code == 2


def test_check_as_json_guesses_the_format(rows):
    report = json.loads(wfr("check", rows, "--json").stdout)
    assert (report["format"], report["tasks"], report["faulty"]) == ("gsm8k", 20, 1)
    assert report["first"][0]["answers"] == ["5"]


def test_samples_are_the_same_for_a_seed(rows):
    first, again, other = (
        wfr("sample", rows, "-n", 3, "--seed", seed, "--format", "gsm8k").stdout
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first.splitlines()) == 3


def test_overlap_finds_exact_and_near_twins(rows, tmp_path):
    other = tmp_path / "other.jsonl"
    near = "So how many are 3 and more?"
    other.write_text("\n".join([line("how many are 7, and more"), line(near), line("Else?")]))
    result = wfr("overlap", rows, other, "--threshold", 0.5, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert sorted(item["similarity"] == 1.0 for item in found) == [False, True]
    assert wfr("overlap", rows, other, "--threshold", 2).exit_code == 2
    other.write_text(line("Something else entirely, for once?"))
    assert wfr("overlap", rows, other).exit_code == 0


def test_a_users_own_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,gold\nWhat?,x\n")
    columns = ("--column", "question=prompt", "--column", "answers=gold")
    result = wfr("check", path, "--format", "custom", *columns, "--json")
    assert json.loads(result.stdout)["tasks"] == 1
    assert wfr("check", path, "--format", "custom").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [("check", "absent.jsonl"), ("check", "hub:x/y"), ("check", "absent", "--format", "squad")],
)
def test_bad_input_is_exit_code_2(arguments):
    assert wfr(*arguments).exit_code == 2


def test_rows_like_nothing_known_are_refused_with_the_formats(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}')
    result = wfr("check", path)
    assert result.exit_code == 2
    assert "looks like none of the formats" in result.stderr
