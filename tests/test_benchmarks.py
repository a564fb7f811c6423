"""The benchmark harness itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.harness import Result, at_least, at_most, figure, interleave, ratio

ROOT = Path(__file__).resolve().parents[1]


def kept(*values, target=None, name="f", quick=False):
    result = Result([figure(name, values, "×", target)])
    return report.record("b", "about", result, seconds=1.0, quick=quick)


def test_sides_alternate_and_the_warmup_is_not_counted():
    calls = []

    def side(name, values):
        values = iter(values)

        def work():
            calls.append(name)
            return next(values)

        return work

    samples = interleave({"a": side("a", [9, 1, 2]), "b": side("b", [9, 3, 4])}, repeats=2)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": (1, 2), "b": (3, 4)}


def test_a_side_that_returns_nothing_is_timed():
    (seconds,) = interleave({"a": lambda: None}, repeats=1, warmup=0)["a"]
    assert seconds >= 0


@pytest.mark.parametrize(("sides", "repeats"), [({}, 1), ({"a": lambda: 1.0}, 0)])
def test_nothing_to_measure_is_refused(sides, repeats):
    with pytest.raises(ValueError, match="need at least 1 of 1"):
        interleave(sides, repeats=repeats)


def test_a_ratio_is_the_median_of_paired_ratios():
    found = ratio("r", [2.0, 9.0, 4.0], [1.0, 3.0, 4.0], at_least(2))
    assert (found.value, found.low, found.high, found.repeats) == (2.0, 1.0, 3.0, 3)
    assert found.met


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(at_least(5), 5, True), (at_least(5), 4.9, False), (at_most(1), 1, True), (None, 1, None)],
)
def test_targets(target, value, met):
    assert figure("f", [value], target=target).met is met


@pytest.mark.parametrize(
    ("target", "old", "new", "count"),
    [
        (at_least(5), (9, 10, 11), (6, 7, 8), 1),
        (at_least(5), (9, 10, 11), (8, 9.9, 12), 0),  # spreads overlap
        (at_least(5), (9, 10, 11), (20, 21, 22), 0),  # better
        (at_most(5), (9, 10, 11), (20, 21, 22), 1),
        (at_most(5), (10, 10, 10), (10.1, 10.2, 10.3), 0),  # within a twentieth
        (None, (9, 10, 11), (1, 1, 1), 0),  # no good side
    ],
)
def test_only_what_is_worse_beyond_the_noise_is_reported(target, old, new, count):
    assert len(report.worse(kept(*old, target=target), kept(*new, target=target))) == count


def test_other_sizes_do_not_compare():
    old, new = kept(10, target=at_least(5)), kept(1, target=at_least(5), quick=True)
    assert report.worse(old, new) == []


def test_records_survive_the_disk_and_become_a_table(tmp_path):
    record = kept(1.0, 2.0, 3.0, target=at_least(5))
    report.write(record, tmp_path / "results")
    assert report.read("b", tmp_path / "results") == record
    assert report.figures(record)[0].target == at_least(5)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| f | 2 × | 1 to 3 (3) | at least 5 | **missed** |" in text
    assert f"{record['machine']['cores']} cores" in text


def test_every_benchmark_says_what_it_compares():
    for name in command.names():
        assert len(command._about(name)) > 40, name


def test_the_stored_table_is_made_of_the_stored_results():
    records = report.read_all(command.RESULTS)
    stored = command.HERE / "RESULTS.md"
    if records or stored.exists():
        assert stored.read_text(encoding="utf-8") == report.table(records)


def test_an_unknown_name_is_refused_with_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nonsense"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such benchmark: nonsense" in done.stdout


def test_a_benchmark_that_cannot_run_fails_after_the_others(tmp_path, monkeypatch):

    class Good:
        @staticmethod
        def run(quick):
            assert not quick
            return Result([figure("f", [1.0, 2.0])])

    class Bad:
        @staticmethod
        def run(quick):
            raise OSError("no disk")

    modules = {"bad": Bad, "good": Good}
    monkeypatch.setattr(command, "names", lambda: ["bad", "good"])
    monkeypatch.setattr(command, "_about", lambda name: "about")
    monkeypatch.setattr(command, "_load", modules.__getitem__)
    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, ["--results", str(tmp_path / "results")])
    assert done.exit_code == 1
    assert "could not run: bad" in done.stdout
    stored = json.loads((tmp_path / "results" / "good.json").read_text())
    assert stored["figures"][0]["value"] == 1.5
