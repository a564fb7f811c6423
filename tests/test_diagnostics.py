"""Metrics of the objective, each against plain Python over the tokens of a bucket."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_oracle import draw_rows, tokens_of, unit_of

from learner.objectives import policy_loss

CONFIG = {"clip_low": 0.1, "clip_high": 0.2, "correction_cap": 1.1, "max_turn_lag": 2}
SHAPES = st.lists(st.lists(st.integers(1, 10), min_size=1, max_size=3), min_size=1, max_size=4)
LAGS = {"0": [0], "1": [1], "2": [2], "3": [3]}
LENGTHS = {"1": range(1, 2), "2_8": range(2, 9), "9_32": range(9, 33)}


def _plain(value):
    return value.item() if isinstance(value, torch.Tensor) else value


def measured(tokens, **config):
    """The metrics of one batch of these tokens."""
    column = {
        name: torch.tensor([_plain(getattr(t, name)) for t in tokens], dtype=torch.float64)
        for name in ("logp", "prox", "mu", "ref", "advantage")
    }
    whole = {name: torch.tensor([t.place[at] for t in tokens]) for name, at in (("r", 0), ("k", 1))}
    return policy_loss(
        logp=column["logp"],
        proximal_logp=column["prox"],
        behaviour_logp=column["mu"],
        reference_logp=column["ref"],
        entropy=column["ref"].abs(),
        advantage=column["advantage"],
        turn_id=whole["k"],
        row_id=whole["r"],
        turn_lag=torch.tensor([t.lag for t in tokens]),
        config={**CONFIG, **config},
    ).metrics.values()


def k3(token, base):
    d = base - token.logp.item()
    return math.exp(d) - d - 1


def expected(bucket, tokens):
    """Every metric of the tokens in `bucket`, which holds whole turns."""
    kept = [t for t in tokens if t.lag <= CONFIG["max_turn_lag"]]
    inside = [t for t in kept if t in bucket]
    turns = {t.place[:2] for t in bucket}
    values = {
        "masked_fraction": 1 - len(inside) / len(bucket),
        "rejected_fraction": 0.0,
        "tokens_per_turn": len(bucket) / len(turns),
        "turns_of_row": statistics.fmean(
            len({t.place[1] for t in tokens if t.place[0] == row}) for row, _ in turns
        ),
    }
    if not inside:
        return values
    units = {t.place[:2]: unit_of(t, kept, "subsequence") for t in inside}.values()
    ratios = [math.exp(statistics.fmean(t.change for t in unit)) for unit in units]
    signs = [unit[0].advantage for unit in units]
    weights = [math.exp(statistics.fmean(t.log_weight for t in unit)) for unit in units]
    per_row = [1 / len(unit_of(t, kept, "sequence")) for t in inside]
    advantages = [t.advantage for t in inside]

    def by_row(numbers):
        return sum(map(math.prod, zip(numbers, per_row, strict=True))) / sum(per_row)

    return values | {
        "ratio": statistics.fmean(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ratio_ess": sum(ratios) ** 2 / sum(r * r for r in ratios) / len(ratios),
        "clip_fraction_low": statistics.fmean(
            r < 0.9 and a < 0 for r, a in zip(ratios, signs, strict=True)
        ),
        "clip_fraction_high": statistics.fmean(
            r > 1.2 and a > 0 for r, a in zip(ratios, signs, strict=True)
        ),
        "clip_fraction_dual": 0.0,
        "correction": statistics.fmean(weights),
        "correction_min": min(weights),
        "correction_max": max(weights),
        "correction_ess": sum(weights) ** 2 / sum(w * w for w in weights) / len(weights),
        "correction_fraction": statistics.fmean(w > 1.1 for w in weights),
        "kl_proximal": statistics.fmean(k3(t, t.prox) for t in inside),
        "kl_behaviour": statistics.fmean(k3(t, t.mu) for t in inside),
        "kl_reference": statistics.fmean(k3(t, t.ref) for t in inside),
        "entropy": statistics.fmean(abs(t.ref) for t in inside),
        "advantage": by_row(advantages),
        "advantage_abs": by_row(map(abs, advantages)),
        "advantage_zero_fraction": by_row([a == 0 for a in advantages]),
        "advantage_min": min(advantages),
        "advantage_max": max(advantages),
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), shapes=SHAPES, even=st.booleans())
def test_every_mean_of_every_bucket(seed, shapes, even):
    rows = draw_rows(seed, shapes)
    if even:
        rows[0]["advantage"] = 0.0
    tokens = tokens_of(rows)
    values = measured(tokens)
    wanted = expected(tokens, tokens)
    for name, keys, of in (
        ("lag", LAGS, lambda t: t.lag),
        ("length", LENGTHS, lambda t: len(unit_of(t, tokens, "subsequence"))),
    ):
        for label, members in keys.items():
            bucket = [t for t in tokens if of(t) in members]
            if bucket:
                numbers = expected(bucket, tokens).items()
                wanted |= {f"{metric}/{name}_{label}": number for metric, number in numbers}
    sizes = {
        "turns_per_row": sum(map(len, shapes)) / len(shapes),
        "tokens_per_row": sum(map(sum, shapes)) / len(shapes),
    }
    losses = {name: values.pop(name) for name in ("policy_loss", "penalty_loss")}
    assert values == pytest.approx(wanted | sizes, rel=1e-9, abs=1e-9)
    assert math.isfinite(losses["policy_loss"] + losses["penalty_loss"])


def test_effective_sample_size_of_equal_weights_is_one():
    tokens = tokens_of(draw_rows(1, [[3, 2], [4]]))
    for token in tokens:
        token.prox, token.mu = token.logp.item(), token.logp.item() - 0.3
    values = measured(tokens, max_turn_lag=None)
    assert (values["ratio_ess"], values["correction_ess"]) == pytest.approx((1.0, 1.0))
    assert values["correction"] == pytest.approx(math.exp(0.3))


def test_losses_are_those_of_the_objective():
    rows = draw_rows(2, [[3, 2], [4]])
    tokens = tokens_of(rows)
    values = measured(tokens)
    free = measured(tokens, kl_coef=0.0)
    assert free["penalty_loss"] == 0
    assert values["policy_loss"] == pytest.approx(free["policy_loss"])
    assert values["penalty_loss"] > 0
