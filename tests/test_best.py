"""The best version, and when to give up, against a slow look at the whole list."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.best import Best, UnknownScoreError
from wfr.best_config import BestConfig
from wfr.config import ConfigError, parse_config


def evaluation(version, em, **more):
    return {
        "version": version,
        "em": em,
        "reward": 0.0,
        "turns": 1.0,
        "skills": {},
        "parts": {},
    } | more


scores = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9])), max_size=12)


@given(scores, st.sampled_from(["max", "min"]), st.sampled_from([0.0, 0.15]), st.integers(1, 4))
def test_against_a_slow_look_at_the_whole_list(values, mode, min_change, patience):
    config = BestConfig(score="em", mode=mode, min_change=min_change, patience=patience)
    best = Best(config)
    for version, value in enumerate(values):
        best.observe(evaluation(version, value))
        kept, chosen = None, -1
        for number, other in enumerate(values[: version + 1]):
            gain = None if other is None or kept is None else other - kept
            gain = -gain if gain is not None and mode == "min" else gain
            if other is not None and (kept is None or gain > min_change):
                kept, chosen = other, number
        assert best.version == chosen
        assert best.score == kept or (kept is None and math.isnan(best.score))
        assert best.since == version - chosen
        assert bool(best.given_up) == (best.since >= patience)


def test_skills_and_parts_are_scores_too():
    best = Best(BestConfig(score="parts/gate", mode="max"))
    assert best.observe(evaluation(3, 0.0, parts={"gate": 0.5}))
    assert not best.observe(evaluation(4, 0.9, parts={"gate": 0.4}))
    assert (best.version, best.score, best.given_up) == (3, 0.5, "")


def test_an_unknown_score_names_those_there_are():
    best = Best(BestConfig(score="f1"))
    with pytest.raises(UnknownScoreError, match=r"'f1'.*em, reward, turns, skills/hop1"):
        best.observe(evaluation(0, 0.0, skills={"hop1": 0.0}))


def test_without_a_score_nothing_is_preferred_and_nobody_gives_up():
    best = Best(BestConfig())
    assert not best.observe(evaluation(0, 1.0))
    assert (best.version, best.given_up) == (-1, "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"best": {"patience": 2}}, "best.patience=2 without best.score"),
        ({"best": {"score": "em"}}, "train.eval_every=0"),
        ({"best": {"score": "em", "mode": "more"}}, "best.mode='more'"),
    ],
)
def test_contradictions_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        parse_config(values)
