"""Statistics of paired runs, each against a slow way to the same number."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.studies.paired import bootstrap, holm, paired_test, tails


def by_integration(t, freedom):
    """Two tails of Student's t as the integral of its density, in the angle atan(x / √ν)."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))
    angles = np.linspace(math.atan(abs(t) / math.sqrt(freedom)), math.pi / 2, 200_001)
    return 2 * scale * np.trapezoid(np.cos(angles) ** (freedom - 1), angles)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 6, 9, 20, 31])
@pytest.mark.parametrize("t", [0.0, 0.3, -1.0, 2.776, 8.0])
def test_tails_are_the_integral_of_the_density(t, freedom):
    assert tails(t, freedom) == pytest.approx(by_integration(t, freedom), abs=1e-8)


@pytest.mark.parametrize(("t", "freedom"), [(12.706, 1), (4.303, 2), (2.776, 4), (2.262, 9)])
def test_tails_of_the_printed_tables(t, freedom):
    assert tails(t, freedom) == pytest.approx(0.05, abs=2e-4)


def test_paired_test_of_known_values():
    # mean 1, standard error 0.5 / sqrt(4)
    values = [1 + 0.5 * z for z in (-(1.5**0.5), 0, 0, 1.5**0.5)]
    assert paired_test(values) == pytest.approx(by_integration(4.0, 3), abs=1e-8)
    assert paired_test([0.0, 0.0]) == 1.0
    assert paired_test([0.1, 0.1, 0.1]) == 0.0
    assert paired_test([1.0]) is None


def test_the_test_keeps_its_level():
    rng = np.random.default_rng(1)
    rejected = sum(paired_test(rng.normal(size=5)) < 0.05 for _ in range(4000))
    assert 150 <= rejected <= 250


def test_bootstrap_is_the_distribution_of_all_resamples():
    values = [0.1, 0.4, 0.5, 0.9]
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=4)]
    low, high = bootstrap(values)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.02)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.02)
    assert bootstrap([1.0]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values):
    """A hypothesis is rejected where Bonferroni rejects every set of hypotheses that holds it."""
    indices = range(len(p_values))
    sets = [s for n in range(1, len(p_values) + 1) for s in itertools.combinations(indices, n)]
    closed = [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in indices
    ]
    assert holm(p_values) == pytest.approx(closed)
