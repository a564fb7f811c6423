import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.advantage import group_advantage
from wfr.trajectory import Group, StopReason, Trajectory

rewards = st.floats(-3, 3, allow_subnormal=False)


def group(values: list[float | None]) -> Group:
    """A group with these rewards; None is a sibling that the world failed."""
    empty = np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32), [], [], []
    rows = [
        Trajectory("run", "task", "g", index, *empty, StopReason.SANDBOX_UNAVAILABLE)
        if value is None
        else Trajectory("run", "task", "g", index, *empty, StopReason.ANSWERED, value)
        for index, value in enumerate(values)
    ]
    return Group("g", "task", 0, rows)


def oracle(values: list[float | None], kind: str) -> list[float]:
    """The definition, term by term, with the standard library."""
    scored = [value for value in values if value is not None]
    if len(scored) == 1:
        return [0.0 if value is None else value for value in values]
    mean = math.fsum(scored) / len(scored)
    spread = statistics.stdev(scored) + 1e-6 if kind == "zscore" else 1.0
    return [0.0 if value is None else (value - mean) / spread for value in values]


@pytest.mark.parametrize("kind", ["zscore", "centred"])
@given(values=st.lists(st.none() | rewards, min_size=1, max_size=8).filter(any))
def test_equals_the_definition(kind, values):
    result = group_advantage(group(values), kind)
    assert result.values.dtype == np.float32
    assert result.values == pytest.approx(oracle(values, kind), rel=1e-5, abs=1e-5)
    assert result.scored.tolist() == [value is not None for value in values]


def test_known_numbers():
    result = group_advantage(group([1.0, 0.0, None, 0.0, 1.0]), "zscore")
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-6)
    assert result.values == pytest.approx([expected, -expected, 0, -expected, expected])
    assert not result.zero_variance


@pytest.mark.parametrize(
    ("values", "flat"),
    [([0.5, 0.5], True), ([0.5, None, 0.5], True), ([0.5, 0.6], False), ([0.5, None], False)],
)
def test_zero_variance_is_flagged(values, flat):
    result = group_advantage(group(values), "zscore")
    assert result.zero_variance is flat
    if flat:
        assert not result.values.any()


def test_group_without_a_score_has_no_advantage():
    assert group_advantage(group([None, None]), "zscore").values.tolist() == [0, 0]


def test_a_scored_sibling_needs_a_reward():
    with pytest.raises(ValueError, match="no finite reward"):
        group_advantage(group([1.0, math.nan]), "zscore")
