"""The trust region of the ratio study: the loss itself clips as many tokens as was promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.studies.trust_region import (
    UNITS,
    Bounds,
    Scored,
    calibrate,
    joined,
    load,
    outer,
    write,
)
from learner.objectives import policy_loss


def batch(rows=64, seed=0, spread=0.3):
    """Rows of 4 turns of 1 to 12 tokens, each behind two tokens that the policy did not write."""
    rng = np.random.default_rng(seed)
    turns, rows_of = [], []
    for row in range(rows):
        for turn in range(4):
            size = int(rng.integers(1, 13))
            turns += [-1, -1, *[turn] * size]
            rows_of += [row] * (size + 2)
    logp = -rng.exponential(1.0, len(turns))
    behaviour = np.minimum(0, logp + rng.normal(0, spread, len(turns)))
    advantage = np.where(np.arange(rows) % 8 == 0, 0.0, rng.normal(size=rows))
    columns = (torch.tensor(c) for c in (logp, behaviour, advantage, turns, rows_of))
    return Scored(*columns)


def clipped_by_the_loss(scored, unit, bounds):
    """Share of policy tokens whose log-probability has an advantage and gets no gradient."""
    logp = scored.logp.clone().requires_grad_()
    policy_loss(
        logp=logp,
        proximal_logp=scored.behaviour_logp,
        behaviour_logp=scored.behaviour_logp,
        advantage=scored.advantage,
        turn_id=scored.turn_id,
        row_id=scored.row_id,
        config={
            **{"ratio_unit": unit, "kl_coef": 0.0, "proximal": "behaviour", "correction": "none"},
            **{"clip_low": min(bounds.epsilon, 1.0), "clip_high": bounds.epsilon},
        },
    ).loss.backward()
    counts = (scored.turn_id >= 0) & (scored.advantage[scored.row_id] != 0)
    return float((counts & (logp.grad == 0)).sum()) / scored.policy_tokens


@pytest.mark.parametrize("unit", UNITS)
def test_the_loss_clips_the_share_that_was_found(unit):
    scored = batch()
    bounds = calibrate(scored, "subsequence", 0.2)
    assert clipped_by_the_loss(scored, unit, bounds[unit]) == pytest.approx(bounds[unit].share)


def test_units_clip_alike_as_far_as_they_are_small():
    bounds = calibrate(batch(rows=256), "subsequence", 0.2)
    reference = bounds["subsequence"]
    assert reference.epsilon == 0.2
    assert 0.01 < reference.share < 0.5
    assert bounds["token"].share == pytest.approx(reference.share, abs=1e-3)
    assert bounds["sequence"].share == pytest.approx(reference.share, abs=0.01)
    assert bounds["token"].epsilon > 0.2 > bounds["sequence"].epsilon


@pytest.mark.parametrize("unit", UNITS)
def test_batches_keep_their_rows_apart_when_they_are_joined(unit):
    parts = [batch(rows=8, seed=1), batch(rows=5, seed=2)]
    together = joined(parts)
    apart = np.concatenate([part.outward(unit) for part in parts])
    assert together.outward(unit) == pytest.approx(apart)
    assert together.policy_tokens == sum(part.policy_tokens for part in parts)


def test_outer_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = np.round(rng.normal(0, 0.3, 40), 1)
        share = rng.uniform(0.02, 0.5)

        def miss(threshold, values=values, share=share):
            return abs((values > threshold).sum() / 50 - share)

        best = min(miss(t) for t in np.arange(-2, 2, 0.05))
        assert miss(outer(values, 50, share)) == pytest.approx(best)


def test_a_batch_that_was_just_sampled_says_nothing():
    with pytest.raises(ValueError, match="older batch"):
        calibrate(batch(spread=0.0), "subsequence", 0.2)


def test_bounds_survive_the_disk(tmp_path):
    bounds = {unit: Bounds(0.25, 0.0125) for unit in UNITS}
    write(bounds, tmp_path / "bounds.json")
    assert load(tmp_path / "bounds.json") == bounds


def test_the_lower_bound_is_never_below_a_ratio_of_zero():
    assert Bounds(1.5, 0.1).overrides == ("objective.clip_low=1", "objective.clip_high=1.5")
