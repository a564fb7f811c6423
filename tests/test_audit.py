"""The audit finds every kind of lie, and names where it is."""

from __future__ import annotations

import asyncio
import json

import crash_host
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from wfr.audit import audit
from wfr.line_log import encode, read_lines
from wfr.recovery import ledger_path


@pytest.fixture
def run(tmp_path):
    """A finished run of six steps, with checkpoint 4."""
    asyncio.run(crash_host.Host(tmp_path, 7).live(6))
    return tmp_path


def rewrite(path, change):
    """Let `change` alter the list of a line log's records; the checksums are right again."""
    records = list(read_lines(path))
    change(records)
    path.write_bytes(b"".join(map(encode, records)))


def first(records, event):
    return next(record for record in records if record["event"] == event)


def cli(run, *args):
    return CliRunner().invoke(app, ["audit", str(run), *args])


def test_a_sound_run_passes_and_its_books_close(run):
    report = json.loads(cli(run, "--json").stdout)
    assert report["ok"]
    assert (report["version"], report["groups_consumed"]) == (6, 12)
    spent = report["consumed"] + report["waiting"] + sum(report["discarded"].values())
    assert report["generated"] == spent > 0


def drop_publish(records):
    records.remove(first(records, "publish"))


def consume_twice(records):
    takes = [r for r in records if r["event"] == "take"]
    takes[1]["groups"][0] = takes[0]["groups"][0]


def lie_about_tokens(records):
    last = [record for record in records if record["event"] == "finish"][-1]
    last["meta"]["policy_tokens"] += 1


def lie_about_age(records):
    records[:] = [r for r in records if r["event"] != "restart"]
    last = [r for r in records if r["event"] == "take"][-1]["groups"][0]
    finish = next(r for r in records if r["event"] == "finish" and r["group"] == last)
    finish["meta"]["oldest_version"] = 0


def never_admit(records):
    records.remove(first(records, "admit"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop_publish, "version 2 is published after 0"),
        (consume_twice, "is taken, but it is used"),
        (lie_about_tokens, "policy tokens, and"),
        (lie_about_age, "bound 2"),
        (never_admit, "expected group 0"),
    ],
)
def test_a_ledger_that_lies_is_found_out(run, change, says):
    rewrite(ledger_path(run, 0), change)
    result = cli(run)
    assert result.exit_code == 1
    assert says in result.stderr


def test_a_flipped_bit_of_the_ledger_is_found_with_its_line(run):
    path = ledger_path(run, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"event"', b'"evenT"')
    path.write_bytes(b"".join(lines))
    assert audit(run).violations == [f"{path}:5: the line's checksum is wrong"]


def test_a_group_that_the_journal_lost_is_found(run):
    newest = max(run.glob("journal/*/*.index"), key=lambda p: p.stat().st_mtime_ns)
    group = list(read_lines(newest))[-1]["group"]
    data = newest.with_suffix(".arrow").read_bytes()
    newest.with_suffix(".arrow").write_bytes(data[:-200] + bytes(200))
    assert any(f"group {group} is " in line for line in audit(run).violations)


def test_metrics_and_checkpoints_that_disagree_are_found(run):
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["groups"][0] += 1000
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (violation,) = audit(run).violations
    assert violation.startswith(f"{path}:3: version 3 used groups")
    path.unlink()
    (run / "checkpoints" / "4").rename(run / "checkpoints" / "9")
    (violation,) = audit(run).violations
    assert "checkpoints/9: is of version 4" in violation


def test_a_directory_without_a_run_is_bad_input(tmp_path):
    result = cli(tmp_path / "nothing")
    assert result.exit_code == 2
    assert "config.json" in result.stderr
