"""A series of runs: what is made, what is not made again, and what a row says."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.series import Arm, Series, outcome

ARMS = [Arm(f"lag-{lag}", {"lag_bound": lag}, (f"buffer.max_lag={lag}",)) for lag in (0, 4)]


def step(number, correct):
    return {
        "kind": "step",
        "step": number,
        "time": 1000.0 + 10 * number,
        "reward/correct": correct,
        "reward/operators": 3.0,
        "clip_fraction_low": 0.01,
        "clip_fraction_high": 0.02,
        "lag/mean": float(number),
        "entropy": 0.5,
        "seconds/training_loop": {"groups": 6.0, "train": 3.0, "publish": 1.0, "other": 0.0},
        "seconds/workers": {"slot": 1.0, "sampler": 50.0, "operator": 20.0, "own": 2.0},
    }


SUMMARY = {
    "status": "done",
    "em_before": 0.3,
    "em_after": 0.9,
    "skills_after": {"hop1": 1.0},
    "parts_after": {"operators": 5.0},
    "steps": 2,
    "rl_seconds": 20.0,
    "wall_seconds": 60.0,
    "max_lag_seen": 2,
    "tokens_generated": 1000,
    "tokens_consumed": 900,
    "tokens_discarded": {"backend_failed": 30, "run_ended": 20},
    "tokens_waiting": 50,
    "idle_shares": [0.0, 0.5],
    "publish_seconds": 1.5,
}


class Made:
    """Stands for `wfr warmstart` and for a sweep: writes what these leave behind."""

    def __init__(self, fails=(), refuses=()):
        self.calls = []
        self.fails = fails
        self.refuses = refuses

    def command(self, what, config, *options):
        assert what == "warmstart"
        self.calls.append("warmstart")
        self._write(options[options.index("--out") + 1], "config.json", "{}")
        return 0

    def play(self, configs):
        for config in configs:
            name = config.run.name
            self.calls.append(name)
            if name in self.refuses:
                yield Ended(config, error="no room")
                continue
            status = {"status": "failed"} if name in self.fails else {}
            self._write(config.run_dir, "summary.json", json.dumps({**SUMMARY, **status}))
            lines = [{"kind": "run"}, step(1, 0.25), step(2, 0.75)]
            self._write(config.run_dir, "metrics.jsonl", "\n".join(map(json.dumps, lines)))
            self._write(config.run_dir / "checkpoints", "weights", "")
            yield Ended(config, error="it failed" if status else "")

    def _write(self, directory, name, text):
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / name).write_text(text)


class Ended(types.SimpleNamespace):
    """As `cluster.sweep.Ended`, without Ray."""

    def __init__(self, config, error=""):
        super().__init__(config=config, error=error)


def series_of(out, made, common=(), **more):
    return Series(out, common, made.command, made.play, **more)


def test_runs_are_made_once_seed_by_seed_from_one_warm_start(tmp_path):
    made = Made()
    series = series_of(tmp_path, made, ["train.steps=2"])
    assert series.run(ARMS, [1]) == []
    assert series.run(ARMS, [1, 2]) == []
    assert made.calls == ["warmstart", "lag-0-1", "lag-4-1", "lag-0-2", "lag-4-2"]
    rows = series.rows(ARMS, [1, 2])
    assert [(r["seed"], r["lag_bound"]) for r in rows] == [(1, 0), (1, 4), (2, 0), (2, 4)]
    assert not (tmp_path / "lag-0-1/checkpoints").exists()
    assert (tmp_path / "lag-0-1/metrics.jsonl").exists()


def test_other_settings_are_other_runs(tmp_path):
    made = Made()
    series_of(tmp_path, made, ["train.steps=2"]).run(ARMS[:1], [1])
    longer = series_of(tmp_path, made, ["train.steps=3"])
    assert longer.rows(ARMS, [1]) == []
    longer.run(ARMS[:1], [1])
    assert made.calls.count("lag-0-1") == 2


def test_settings_in_another_order_are_the_same_run(tmp_path):
    made = Made()
    series_of(tmp_path, made, ["train.steps=2", "buffer.max_lag=0"]).run(
        [Arm("a", {"kind": "x"}, ("learner.lr=0.1",))], [1]
    )
    other = series_of(tmp_path, made, ["learner.lr=0.1"])
    arms = [Arm("b", {"kind": "y"}, ("buffer.max_lag=0", "train.steps=2"))]
    assert other.run(arms, [1]) == []
    assert made.calls == ["warmstart", "a-1"]
    assert [(row["arm"], row["kind"]) for row in other.rows(arms, [1])] == [("b", "y")]


def test_a_failed_run_is_named_and_made_again(tmp_path):
    assert series_of(tmp_path, Made({"lag-4-1"})).run(ARMS, [1]) == ["lag-4-1"]
    made = Made()
    assert series_of(tmp_path, made).run(ARMS, [1]) == []
    assert made.calls == ["lag-4-1"]


def test_what_an_earlier_run_left_is_not_taken_for_a_failed_ones(tmp_path):
    series_of(tmp_path, Made(), ["train.steps=2"]).run(ARMS[:1], [1])
    refused = series_of(tmp_path, Made(refuses={"lag-0-1"}), ["train.steps=3"])
    assert refused.run(ARMS[:1], [1]) == ["lag-0-1"]
    assert refused.rows(ARMS[:1], [1]) == []


def test_a_row_that_was_cut_off_is_made_again(tmp_path):
    series_of(tmp_path, Made()).run(ARMS, [1])
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows.read_bytes()[:-100])
    made = Made()
    series = series_of(tmp_path, made)
    series.run(ARMS, [1])
    assert made.calls == ["lag-4-1"]
    assert len(series.rows(ARMS, [1])) == 2


def test_no_run_begins_after_the_time_is_up(tmp_path):
    made = Made()
    assert series_of(tmp_path, made).run(ARMS, [1], minutes=-1) == []
    assert made.calls == []


def test_a_warm_start_that_fails_ends_the_series(tmp_path):
    with pytest.raises(RuntimeError, match="warm start"):
        Series(tmp_path, command=lambda *a: 1, play=Made().play).run(ARMS, [1])


def test_what_a_row_says(tmp_path):
    series_of(tmp_path, Made()).run(ARMS[:1], [1])
    row = outcome(tmp_path / "lag-0-1")
    assert (row["discarded"], row["cut"], row["discarded_by"]) == (30, 20, {"backend_failed": 30})
    assert row["curve"] == [0.25, 0.75]
    assert (row["parts"], row["curves"]) == ({"operators": 5.0}, {"operators": [3.0, 3.0]})
    assert row["at"] == [10.0, 20.0]
    assert row["clipped"] == pytest.approx([0.03, 0.03])
    assert (row["groups"], row["operator"], row["idle"], row["lag"]) == (6.0, 20.0, 0.25, 1.5)


def test_rows_become_a_table(tmp_path):
    series = series_of(tmp_path, Made())
    series.run(ARMS, [1])
    table = pq.read_table(series.write_table(series.rows(ARMS, [1]))).to_pylist()
    assert [row["lag_bound"] for row in table] == [0, 4]
    assert table[0]["curve"] == [0.25, 0.75]
    assert json.loads(table[0]["discarded_by"]) == {"backend_failed": 30}


def test_a_series_goes_on_elsewhere_from_the_rows_that_were_kept(tmp_path):
    kept = tmp_path / "kept.jsonl"
    first = series_of(tmp_path / "a", Made(), kept=kept)
    first.run(ARMS[:1], [1])
    for _ in range(2):  # once is enough
        first.keep(first.rows(ARMS, [1]))
    assert len(kept.read_text().splitlines()) == 1
    made = Made()
    other = series_of(tmp_path / "b", made, kept=kept)
    assert other.run(ARMS, [1]) == []
    assert made.calls == ["warmstart", "lag-4-1"]
    assert [row["arm"] for row in other.rows(ARMS, [1])] == ["lag-0", "lag-4"]
    other.keep(other.rows(ARMS, [1]))
    assert len(kept.read_text().splitlines()) == 2
