"""The asynchronous ladder: what it makes of runs that are there."""

from __future__ import annotations

import pytest

from benchmarks import async_ladder
from benchmarks.async_ladder import LAGS, POOLS, arms, figures, ideal, table
from benchmarks.series import CONFIG
from wfr.config import load_config
from wfr.operators.library import pool_names


def row(profile, lag, seed, seconds, **more):
    return {
        **{"arm": f"{profile}-lag-{lag}", "profile": profile, "max_lag": lag, "seed": seed},
        **{"rl_seconds": seconds, "groups": 60.0, "train": 30.0, "publish": 10.0, "other": 0.0},
        **{"sampler": 30.0, "operator": 60.0, "own": 10.0, "idle": 0.1, "lag": float(lag)},
        **{"generated": 1000, "discarded": 10, "cut": 5, "waiting": 20, "em_after": 0.9},
        **{"max_lag_seen": lag, "load": 1.0, "commit": "abc"},
        **more,
    }


def values(rows):
    return {item.name: item for item in figures(rows)}


def test_speedups_are_over_the_synchronous_run_of_the_same_seed():
    rows = [
        *(row("heavy_tail", 0, 1, 100.0), row("heavy_tail", 0, 2, 300.0)),
        *(row("heavy_tail", 4, 1, 50.0), row("heavy_tail", 4, 2, 60.0)),
        row("heavy_tail", 4, 3, 1.0),  # nothing to compare it with
    ]
    found = values(rows)["heavy_tail, lag 4: speed-up over lag 0"]
    assert (found.low, found.high, found.repeats, found.met) == (2.0, 5.0, 2, True)
    assert values(rows)["heavy_tail, lag 4: training"].repeats == 3


def test_the_ideal_is_made_of_the_synchronous_phases():
    assert ideal(row("none", 0, 1, 100.0)) == pytest.approx(100 / 60)
    rows = [row("none", 0, 1, 100.0), row("none", 4, 1, 80.0, groups=1.0)]
    assert values(rows)["none, lag 4: speed-up ÷ ideal"].value == pytest.approx(1.25 / (100 / 60))


def test_a_profile_without_a_synchronous_run_has_no_speedup():
    names = values([row("none", 4, 1, 80.0)])
    assert "none, lag 4: training" in names
    assert not any("speed-up" in name for name in names)


def test_only_the_long_tail_at_lag_four_has_a_wanted_speedup():
    rows = [row(p, lag, 1, 10.0) for p in POOLS for lag in LAGS]
    wanted = [f.name for f in figures(rows) if f.target and "speed-up" in f.name]
    assert wanted == ["heavy_tail, lag 4: speed-up over lag 0"]


def test_discarded_tokens_are_a_share_of_all():
    found = values([row("none", 8, 1, 10.0, discarded=30)])["none, lag 8: tokens discarded"]
    assert (found.value, found.met) == (3.0, False)


def test_the_split_adds_up():
    split = table([row("none", 1, 1, 10.0), row("none", 1, 2, 30.0)])["none-lag-1"]
    assert split["seconds"] == 20.0
    for kind in ("loop", "episode"):
        assert sum(v for k, v in split.items() if k.startswith(kind)) == pytest.approx(1)
    assert split["episode operator"] == 0.6


def test_every_arm_is_a_configuration_with_the_same_operators():
    for arm in arms(POOLS, LAGS):
        config = load_config(CONFIG, arm.overrides)
        assert config.buffer.max_lag == arm.labels["max_lag"]
        assert pool_names(config.environment.pool) == ("Search", "Programmer")


def test_nothing_finished_is_no_result(tmp_path):
    with pytest.raises(RuntimeError, match="no run"):
        async_ladder.ladder(tmp_path, arms(["none"], [0]), [1], 3, minutes=-1)
