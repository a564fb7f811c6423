import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfr.advantage import advantages
from wfr.trajectory import Group, StopReason, Trajectory

rewards = st.floats(-3, 3, allow_subnormal=False)


WITHIN = ["zscore", "centred", "leave_one_out"]


def one(values, kind):
    """The advantages of a group that is alone."""
    return advantages([group(values)], kind)[0]


def group(values: list[float | None], source: str = "") -> Group:
    """A group with these rewards; None is a sibling that the world failed."""
    empty = np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.float32), [], [], []
    rows = [
        Trajectory("run", "task", "g", index, *empty, StopReason.SANDBOX_UNAVAILABLE)
        if value is None
        else Trajectory("run", "task", "g", index, *empty, StopReason.ANSWERED, value)
        for index, value in enumerate(values)
    ]
    for row in rows:
        row.source = source
    return Group("g", "task", 0, rows)


def oracle(values: list[float | None], kind: str) -> list[float]:
    """The definition, term by term, with the standard library."""
    scored = [value for value in values if value is not None]
    if kind == "source_partitioned_legacy":
        spread = max(statistics.pstdev(scored), 0.01) if scored else 1.0
        mean = math.fsum(scored) / len(scored) if scored else 0.0
        return [0.0 if value is None else (value - mean) / spread for value in values]
    if len(scored) == 1:
        return [0.0 if value is None else value for value in values]
    if kind == "leave_one_out":
        total = math.fsum(scored)
        return [
            0.0 if value is None else value - (total - value) / (len(scored) - 1)
            for value in values
        ]
    mean = math.fsum(scored) / len(scored)
    spread = 1.0 if kind == "centred" else statistics.stdev(scored) + 1e-6
    return [0.0 if value is None else (value - mean) / spread for value in values]


@pytest.mark.parametrize("kind", WITHIN)
@given(values=st.lists(st.none() | rewards, min_size=1, max_size=8).filter(any))
def test_equals_the_definition(kind, values):
    result = one(values, kind)
    assert result.values.dtype == np.float32
    assert result.values == pytest.approx(oracle(values, kind), rel=1e-5, abs=1e-5)
    assert result.scored.tolist() == [value is not None for value in values]


BATCHES = st.lists(
    st.lists(st.none() | st.integers(0, 3).map(float), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
).filter(lambda batch: any(value is not None for values in batch for value in values))


@given(batch=BATCHES)
def test_batch_is_one_big_group(batch):
    results = advantages([group(values) for values in batch], "batch")
    expected = oracle([value for values in batch for value in values], "zscore")
    together = np.concatenate([result.values for result in results])
    assert together == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert [len(result.values) for result in results] == [len(values) for values in batch]
    assert [result.scored.tolist() for result in results] == [
        [value is not None for value in values] for values in batch
    ]


@pytest.mark.parametrize("kind", ["source_partitioned", "source_partitioned_legacy"])
@given(batch=BATCHES, sources=st.lists(st.sampled_from("ab"), min_size=5, max_size=5))
def test_sources_are_compared_apart(kind, batch, sources):
    """Each source is one big group, missing siblings left out, wherever its groups are."""
    pairs = list(zip(batch, sources, strict=False))
    results = advantages([group(values, source) for values, source in pairs], kind)
    for source in "ab":
        mine = [r for r, (_, other) in zip(results, pairs, strict=True) if other == source]
        pooled = [value for values, other in pairs if other == source for value in values]
        if any(value is not None for value in pooled):
            together = np.concatenate([result.values for result in mine])
            assert together == pytest.approx(oracle(pooled, kind), rel=1e-5, abs=1e-5)
            scored = [value for value in pooled if value is not None]
            flat = len(scored) > 1 and len(set(scored)) == 1
            assert all(result.zero_variance is flat for result in mine)


def test_flow_steers_own_variant_differs_where_rewards_hardly_do():
    rewards = [0.50, 0.52]
    assert one(rewards, "source_partitioned_legacy").values == pytest.approx([-1.0, 1.0])
    assert one([0.5, 0.502], "source_partitioned_legacy").values == pytest.approx([-0.1, 0.1])
    assert one([0.5, 0.502], "source_partitioned").values == pytest.approx(
        [-0.707, 0.707], abs=1e-3
    )
    assert one([0.7], "source_partitioned_legacy").values.tolist() == [0.0]
    assert one([0.7], "source_partitioned").values == pytest.approx([0.7])


def test_equal_rewards_teach_nothing_only_where_the_batch_has_no_others():
    mixed = advantages([group([1.0, 1.0]), group([0.0, 0.0])], "batch")
    assert not any(result.zero_variance for result in mixed)
    assert (mixed[0].values > 0).all()
    assert (mixed[1].values < 0).all()
    flat = advantages([group([1.0, 1.0]), group([1.0])], "batch")
    assert all(result.zero_variance for result in flat)
    assert advantages([], "batch") == []


@pytest.mark.parametrize("kind", WITHIN)
def test_other_kinds_do_not_look_beyond_the_group(kind):
    groups = [group([1.0, 0.0]), group([0.5, None, 1.0])]
    for result, alone in zip(advantages(groups, kind), groups, strict=True):
        assert result.values.tolist() == advantages([alone], kind)[0].values.tolist()


def test_known_numbers():
    result = one([1.0, 0.0, None, 0.0, 1.0], "zscore")
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-6)
    assert result.values == pytest.approx([expected, -expected, 0, -expected, expected])
    assert not result.zero_variance


@pytest.mark.parametrize(
    ("values", "flat"),
    [([0.5, 0.5], True), ([0.5, None, 0.5], True), ([0.5, 0.6], False), ([0.5, None], False)],
)
def test_zero_variance_is_flagged(values, flat):
    result = one(values, "zscore")
    assert result.zero_variance is flat
    if flat:
        assert not result.values.any()


def test_group_without_a_score_has_no_advantage():
    assert one([None, None], "zscore").values.tolist() == [0, 0]


def test_a_scored_sibling_needs_a_reward():
    with pytest.raises(ValueError, match="no finite reward"):
        one([1.0, math.nan], "zscore")
