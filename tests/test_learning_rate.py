"""The learning-rate schedule."""

from __future__ import annotations

import pytest

from learner.engine import learning_rate
from wfr.config import LearnerConfig


def _rates(total, **settings):
    config = LearnerConfig(lr=1.0, **settings)
    return [learning_rate(config, step, total) for step in range(total)]


def test_constant_after_a_linear_warm_up():
    assert _rates(5, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_falls_to_the_final_share_at_the_last_step():
    rates = _rates(11, schedule="linear", final_lr=0.2)
    assert rates[0] == 1.0
    assert rates[5] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2)


def test_cosine_starts_and_ends_flat():
    rates = _rates(101, schedule="cosine", final_lr=0.0)
    assert rates[50] == pytest.approx(0.5)
    assert rates[0] - rates[1] < 0.001
    assert rates[-1] == pytest.approx(0.0)


def test_a_run_longer_than_planned_stays_at_the_final_rate():
    config = LearnerConfig(lr=1.0, schedule="linear", final_lr=0.1)
    assert learning_rate(config, 500, 10) == pytest.approx(0.1)
