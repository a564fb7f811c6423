"""Learning-rate schedules, by hand."""

import math

import pytest

from learner.engine import learning_rate
from wfr.learner_config import LearnerConfig


def rates(total, **settings):
    config = LearnerConfig(lr=1.0, **settings)
    return [learning_rate(config, step, total) for step in range(total)]


def test_constant_is_constant():
    assert rates(4) == [1.0] * 4


def test_warm_up_rises_to_the_full_rate_in_its_last_step():
    assert rates(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_to_the_final_share_at_the_last_step():
    got = rates(7, warmup_steps=2, schedule="linear", final_lr=0.2)
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_in_the_middle():
    got = rates(9, schedule="cosine", final_lr=0.0)
    assert got == pytest.approx([(1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)])
    assert got[4] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_beyond_the_plan_the_rate_stays_where_it_ended(schedule):
    config = LearnerConfig(lr=1.0, schedule=schedule, final_lr=0.1)
    assert learning_rate(config, 50, 10) == pytest.approx(0.1)
    assert learning_rate(config, 0, 1) == 1.0
