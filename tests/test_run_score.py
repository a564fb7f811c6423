"""The score of an evaluation: exact match over what was graded; the rest is counted, not scored."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from actors.worker import EpisodeResult
from cluster.evaluation import score


def episode(correct=1.0, skill="hop1", reward=None, turns=2, reason="answered"):
    return EpisodeResult(
        "t", skill, correct if reward is None else reward, {"correct": correct}, reason, turns, ""
    )


def failed(reason="backend_failed"):
    return EpisodeResult("t", "hop1", math.nan, {}, reason, 1, "")


def test_means_over_all_and_per_skill():
    result = score(
        [episode(1.0, "hop2", turns=3), episode(0.0, "hop1", -0.5), episode(1.0, "hop1")]
    )
    assert result == {
        "em": 0.6667,
        "skills": {"hop1": 0.5, "hop2": 1.0},
        "reward": 0.5,
        "parts": {"correct": 0.6667},
        "turns": 2.3333,
        "tasks": 3,
        "not_scored": 0,
        "stop_reasons": {"answered": 3},
    }
    assert list(result["skills"]) == ["hop1", "hop2"]


def test_failures_of_the_world_are_counted_and_not_scored():
    result = score([episode(1.0), failed(), failed("sampler_failed"), failed()])
    assert (result["em"], result["reward"], result["turns"]) == (1.0, 1.0, 2.0)
    assert (result["tasks"], result["not_scored"]) == (1, 3)
    assert result["stop_reasons"] == {"answered": 1, "backend_failed": 2, "sampler_failed": 1}


def test_an_episode_that_ran_out_counts_as_wrong():
    result = score([episode(1.0), episode(0.0, reward=-1.0, reason="out_of_tokens")])
    assert (result["em"], result["tasks"]) == (0.5, 2)


def test_tasks_without_a_skill_are_one_bucket():
    assert score([episode(skill=""), episode(0.0, skill="")])["skills"] == {"all": 0.5}


def test_nothing_graded_is_not_a_zero():
    result = score([failed()])
    assert math.isnan(result["em"])
    assert (result["tasks"], result["not_scored"], result["skills"]) == (0, 1, {})
    assert score([])["stop_reasons"] == {}


@given(st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.booleans()), min_size=1))
def test_exact_match_is_the_weighted_mean_of_the_skills(rows):
    result = score(episode(float(right), skill) for skill, right in rows)
    count = {skill: sum((s or "all") == skill for s, _ in rows) for skill in result["skills"]}
    weighted = sum(em * count[skill] for skill, em in result["skills"].items()) / len(rows)
    assert abs(result["em"] - weighted) < 1e-3
    assert abs(result["em"] - sum(right for _, right in rows) / len(rows)) < 1e-3
    assert json.loads(json.dumps(result)) == result
