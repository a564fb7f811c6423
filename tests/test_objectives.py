"""The objective against its definition written out token by token, and against its identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_oracle import draw_rows, slow

from learner.aggregation import Denominators
from learner.interpolation import interpolate
from learner.m2po import second_moment_cut
from learner.objectives import objective, policy_loss
from learner.segments import Layout
from wfr.objective_config import OBJECTIVE_PRESETS

NAN = float("nan")
SYMMETRIC = {"kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}


def flatten(rows, garbage=NAN, shuffle=None):
    """The rows as flat columns, one garbage token after each turn, shuffled like cards."""
    parts = {name: [] for name in ("logp", "prox", "mu", "ref", "turn_id", "row_id", "turn_lag")}
    for r, row in enumerate(rows):
        for k, turn in enumerate(row["turns"]):
            blank = torch.tensor([garbage], dtype=torch.float64)
            for name in ("logp", "prox", "mu", "ref"):
                parts[name] += [turn[name], blank]
            length = len(turn["logp"])
            parts["turn_id"].append(torch.tensor([k] * length + [-1]))
            parts["row_id"].append(torch.full((length + 1,), r))
            parts["turn_lag"].append(torch.full((length + 1,), turn["lag"]))
    flat = {name: torch.cat(column) for name, column in parts.items()}
    if shuffle is not None:
        # Tokens of different rows mix; within a row they keep their order.
        generator = torch.Generator().manual_seed(shuffle)
        mixed = flat["row_id"][torch.randperm(len(flat["row_id"]), generator=generator)]
        order = torch.empty_like(mixed)
        for row in mixed.unique():
            order[mixed == row] = torch.nonzero(flat["row_id"] == row)[:, 0]
        flat = {name: column[order] for name, column in flat.items()}
    return flat


def fast(rows, config, denominators=None, moment_cut=None, **options):
    """Loss, gradient by logp (flat) and metrics of `policy_loss`."""
    flat = flatten(rows, **options)
    logp = flat["logp"].requires_grad_()
    result = policy_loss(
        logp=logp,
        proximal_logp=flat["prox"],
        behaviour_logp=flat["mu"],
        reference_logp=flat["ref"],
        advantage=torch.tensor([row["advantage"] for row in rows], dtype=torch.float64),
        turn_id=flat["turn_id"],
        row_id=flat["row_id"],
        turn_lag=flat["turn_lag"],
        config=config,
        denominators=denominators,
        moment_cut=moment_cut,
    )
    result.loss.backward()
    return result.loss.item(), logp.grad, result.metrics


UNITS = ("token", "subsequence", "sequence")
SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4)
GRID = st.fixed_dictionaries(
    {
        "ratio_unit": st.sampled_from(UNITS),
        "aggregate": st.sampled_from(
            ("token_mean", "sequence_mean", "subsequence_mean", "constant")
        ),
        "constant": st.sampled_from((1.0, 7.0)),
        "clip_low": st.sampled_from((3e-4, 0.1, 0.3)),
        "clip_high": st.sampled_from((4e-4, 0.2, 0.5)),
        "clip_scaling": st.sampled_from(("none", "per_length")),
        "dual_clip": st.sampled_from((None, 1.2, 3.0)),
        "kl_coef": st.sampled_from((0.0, 0.1)),
        "kl_estimator": st.sampled_from(("k1", "k2", "k3")),
        "correction": st.sampled_from(("none", "truncate", "mask", "decoupled")),
        "correction_unit": st.sampled_from((None, *UNITS)),
        "correction_cap": st.sampled_from((1.1, 2.0)),
        "correction_low": st.just(0.8),
        "correction_high": st.just(1.2),
        "rejection": st.sampled_from(("none", "mean", "any")),
        "rejection_unit": st.sampled_from((None, *UNITS)),
        "rejection_low": st.sampled_from((0.6, 0.99)),
        "rejection_high": st.sampled_from((1.01, 1.6)),
        "max_turn_lag": st.sampled_from((None, 1)),
        "lag_decay": st.sampled_from((1.0, 0.7)),
        "lag_clip": st.sampled_from((0.0, 0.5)),
    }
)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**20), shapes=SHAPES, switches=GRID)
def test_every_point_of_the_grid_matches_the_definition(seed, shapes, switches):
    rows, config = draw_rows(seed, shapes), objective(switches)
    loss, gradient, _ = fast(rows, config)
    expected, slopes, _ = slow(rows, config)
    policy = flatten(rows)["turn_id"] >= 0
    assert loss == pytest.approx(expected, abs=1e-12)
    assert gradient[policy].tolist() == pytest.approx(slopes, abs=1e-12)
    assert not gradient[~policy].any()


SURROGATES = st.one_of(
    st.fixed_dictionaries(
        {
            "preset": st.just("cispo"),
            "ratio_unit": st.sampled_from(UNITS),
            "clip_low": st.sampled_from((0.2, 1.0)),
            "clip_high": st.sampled_from((0.2, 4.0)),
            "lag_clip": st.sampled_from((0.0, 0.5)),
        }
    ),
    st.fixed_dictionaries({"preset": st.just("vespo"), "ratio_unit": st.sampled_from(UNITS)}),
    st.fixed_dictionaries(
        {
            "preset": st.just("dppo_tv"),
            "dppo_delta": st.sampled_from((1e-3, 0.2)),
            "dppo_penalty": st.sampled_from((0.0, 1e-3, 0.5)),
        }
    ),
    st.fixed_dictionaries(
        {"preset": st.just("m2po"), "m2_budget": st.sampled_from((1e-3, 0.04, 0.2))}
    ),
)
AROUND = st.sampled_from(
    (
        {},
        {"aggregate": "subsequence_mean", "kl_coef": 0.1, "max_turn_lag": 1},
        {"proximal": "current", "correction": "truncate", "lag_decay": 0.7},
    )
)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**20), shapes=SHAPES, switches=SURROGATES, around=AROUND)
def test_other_surrogates_match_the_definition(seed, shapes, switches, around):
    switches = {**switches, **around}
    rows, config = draw_rows(seed, shapes), objective(switches)
    loss, gradient, _ = fast(rows, switches)
    expected, slopes, _ = slow(rows, config)
    assert loss == pytest.approx(expected, abs=1e-12)
    policy = flatten(rows)["turn_id"] >= 0
    assert gradient[policy].tolist() == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize("preset", OBJECTIVE_PRESETS)
def test_presets_match_the_definition(preset):
    rows, config = draw_rows(3, [[3, 1, 4], [2], [1, 1]]), objective(preset)
    loss, gradient, _ = fast(rows, preset)
    expected, slopes, _ = slow(rows, config)
    assert loss == pytest.approx(expected, abs=1e-12)
    assert gradient[flatten(rows)["turn_id"] >= 0].tolist() == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize(
    ("preset", "expected"), [("grpo", -0.296343), ("gspo", -0.390866), ("gsspo", -0.314022)]
)
def test_worked_example(preset, expected):
    """Two sequences of eight tokens, worked by hand, with garbage log-ratios 5 and 7 masked."""
    ratios = [0.30, -0.10, 0.10, 5, 5, 0.50, 0.30, 0, -0.6, 0.2, -0.4, -0.4, 7, 0.05, 7, -0.02]
    turns = [0, 0, 0, -1, -1, 1, 1, -1, 0, 0, 0, 0, -1, 1, -1, 2]
    old = torch.full((16,), -1.0, dtype=torch.float64)
    logp = (old + torch.tensor(ratios, dtype=torch.float64)).requires_grad_()
    result = policy_loss(
        logp=logp,
        proximal_logp=old,
        behaviour_logp=old,
        advantage=torch.tensor([1.2, -0.8], dtype=torch.float64),
        turn_id=torch.tensor(turns),
        row_id=torch.arange(2).repeat_interleave(8),
        config={"preset": preset, **SYMMETRIC},
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(expected, abs=5e-7)
    if preset == "gsspo":
        slopes = [-0.110517] * 3 + [0] * 10 + [0.140169, 0, 0.130693]
        assert logp.grad.tolist() == pytest.approx(slopes, abs=5e-7)


def test_one_turn_makes_gsspo_gspo():
    rows = draw_rows(0, [[5], [2], [7]])
    assert_equal(
        fast(rows, {"preset": "gsspo", **SYMMETRIC}), {"preset": "gspo", **SYMMETRIC}, rows
    )


def test_turns_of_one_token_make_gsspo_grpo():
    rows = draw_rows(1, [[1, 1, 1], [1], [1, 1]])
    assert_equal(
        fast(rows, {"preset": "gsspo", **SYMMETRIC}), {"preset": "grpo", **SYMMETRIC}, rows
    )


def test_units_and_aggregates_differ_otherwise():
    rows = draw_rows(2, [[3, 1], [1, 2, 2]])
    losses = {
        round(fast(rows, {**SYMMETRIC, "ratio_unit": unit, "aggregate": aggregate})[0], 9)
        for unit in UNITS
        for aggregate in ("token_mean", "sequence_mean", "subsequence_mean", "constant")
    }
    # One ratio for a whole row averages to the same over its tokens and over its turns.
    assert len(losses) == 3 * 4 - 1


@pytest.mark.parametrize("correction", ["truncate", "mask", "decoupled"])
def test_equal_behaviour_and_proximal_need_no_correction(correction):
    rows = draw_rows(4, [[3, 1], [2]])
    for turn in (turn for row in rows for turn in row["turns"]):
        turn["mu"] = turn["prox"]
    assert_equal(fast(rows, {"correction": correction}), {"correction": "none"}, rows)


def assert_equal(result, config, rows):
    other = fast(rows, config)
    assert result[0] == pytest.approx(other[0], abs=1e-12)
    assert result[1].tolist() == pytest.approx(other[1].tolist(), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), shapes=SHAPES, switches=GRID | SURROGATES, data=st.data())
def test_micro_batches_ranks_padding_and_order_change_nothing(seed, shapes, switches, data):
    rows = draw_rows(seed, shapes)
    flat = flatten(rows)
    whole = Denominators.of(Layout.of(flat["turn_id"], flat["row_id"]))
    moved = (flat["logp"] - flat["prox"])[flat["turn_id"] >= 0]
    moment_cut = second_moment_cut(moved.square(), objective(switches).m2_budget)
    loss, gradient, metrics = fast(rows, switches)
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    parts = [part for part in (order[:cut], order[cut:]) if part]

    total, summed, slopes = 0.0, None, {}
    for part in parts:
        subset = [rows[i] for i in part]
        value, slope, sums = fast(
            subset, switches, whole, moment_cut, garbage=float("inf"), shuffle=seed
        )
        total += value
        summed = sums if summed is None else summed + sums
        keys = flatten(subset, shuffle=seed)["logp"]
        slopes |= dict(zip(keys.tolist(), slope.tolist(), strict=True))
    assert total == pytest.approx(loss, abs=1e-12)
    for key, slope in zip(flat["logp"].tolist(), gradient.tolist(), strict=True):
        if not math.isnan(key):
            assert slopes[key] == pytest.approx(slope, abs=1e-12)
    assert summed.values() == pytest.approx(metrics.values(), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), shapes=SHAPES, switches=GRID)
def test_gradient_is_the_slope_of_the_loss(seed, shapes, switches):
    """Central differences, where no clip, band or rank lies within the step."""
    rows, step = draw_rows(seed, shapes), 1e-6
    _, gradient, _ = fast(rows, switches)
    values = rows[0]["turns"][0]["logp"]
    for change in (step, -step):
        values[0] += change
        loss, slope, _ = fast(rows, switches)
        values[0] -= change
        if change > 0:
            above, ahead = loss, slope[0].item()
        elif ahead == pytest.approx(slope[0].item(), abs=1e-4):
            assert (above - loss) / (2 * step) == pytest.approx(gradient[0].item(), abs=1e-5)


def test_local_denominators_would_change_the_loss():
    rows = draw_rows(6, [[4, 4], [1]])
    whole, _, _ = fast(rows, "dapo")
    assert sum(fast([row], "dapo")[0] for row in rows) / 2 != pytest.approx(whole, abs=1e-3)


def test_masking_old_turns_shrinks_and_does_not_reweight():
    rows = draw_rows(7, [[2, 3]])
    rows[0]["turns"][0]["lag"], rows[0]["turns"][1]["lag"] = 5, 0
    _, full, _ = fast(rows, SYMMETRIC)
    _, masked, metrics = fast(rows, {**SYMMETRIC, "max_turn_lag": 4})
    assert masked[3:6].tolist() == pytest.approx(full[3:6].tolist())
    assert not masked[:3].any()
    assert metrics.values()["masked_fraction"] == pytest.approx(2 / 5)


def test_a_geometric_mask_rejects_whole_sequences_and_keeps_the_denominators():
    """With token weights truncated besides: what others call seq-mask-tis."""
    rows = draw_rows(11, [[2, 3], [2], [4]])
    for row, shift in zip(rows, (0.0, 0.5, -0.5), strict=True):
        for turn in row["turns"]:
            turn["mu"] = turn["prox"] - shift
            turn["mu"][0] -= 1.0
    truncated = {**SYMMETRIC, "correction": "truncate", "correction_unit": "token"}
    masked = {"rejection": "mean", "rejection_unit": "sequence"}
    band = {"rejection_low": 0.9, "rejection_high": 1.6}
    _, full, _ = fast(rows, truncated)
    _, kept, metrics = fast(rows, {**truncated, **masked, **band})
    # Geometric means: exp(2/5) = 1.49, exp(0.5 + 1/2) = 2.7 and exp(-0.5 + 1/4) = 0.78.
    assert kept[:7].tolist() == full[:7].tolist()
    assert not kept[7:].any()
    assert full[7:].any()
    values = metrics.values()
    assert values["rejected_fraction"] == values["masked_fraction"] == pytest.approx(6 / 11)
    anywhere = {**masked, "rejection": "any", "rejection_low": 0.3, "rejection_high": 2.7}
    _, kept, _ = fast(
        rows, {**truncated, **anywhere}
    )  # the shifted token of each turn: e, 4.5, 1.6
    assert not kept[:10].any()
    assert kept[10:].any()


@pytest.mark.parametrize(
    ("squares", "budget", "cut"),
    [
        ([0.01, 0.09, 0.04], 0.05, math.inf),
        ([0.01, 0.09, 0.04], 0.04, 0.09),
        ([0.01, 0.09, 0.04], 0.02, 0.04),
        ([0.09, 0.09], 0.05, 0.09),
        ([0.0, 0.09, 0.09], 0.05, 0.09),
        ([], 0.04, math.inf),
    ],
)
def test_second_moment_cut(squares, budget, cut):
    assert second_moment_cut(torch.tensor(squares), budget) == pytest.approx(cut)


def test_extreme_ratios_stay_finite():
    rows = draw_rows(8, [[2], [2]])
    rows[0]["turns"][0]["logp"] -= 5e4
    rows[1]["turns"][0]["prox"] -= 5e4
    for preset in ("gsspo", "grpo", "cispo", "dppo_tv", "vespo", "m2po"):
        loss, gradient, _ = fast(rows, preset)
        assert math.isfinite(loss)
        assert gradient.isfinite().all()


def test_reinforce_is_the_policy_gradient():
    rows = draw_rows(9, [[2, 3], [1]])
    _, gradient, _ = fast(rows, "reinforce")
    first, second = rows[0]["advantage"], rows[1]["advantage"]
    expected = [-first / 10] * 5 + [-second / 2]
    assert gradient[flatten(rows)["turn_id"] >= 0].tolist() == pytest.approx(expected)


def test_dppo_masks_by_probability_and_direction():
    """The probabilities 0.1 → 0.4 and back, for either sign: only moves further away are masked."""
    low, high = math.log(0.1), math.log(0.4)
    logp = torch.tensor([high, high, low, low], dtype=torch.float64, requires_grad=True)
    result = policy_loss(
        logp=logp,
        proximal_logp=torch.tensor([low, low, high, high], dtype=torch.float64),
        behaviour_logp=torch.full((4,), low, dtype=torch.float64),
        advantage=torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64),
        turn_id=torch.zeros(4, dtype=torch.int64),
        row_id=torch.zeros(4, dtype=torch.int64),
        config={"preset": "dppo_tv", "dppo_penalty": 0.0},
    )
    result.loss.backward()
    assert logp.grad.tolist() == pytest.approx([0, 1, -1 / 16, 0])
    values = result.metrics.values()
    assert (values["clip_fraction_low"], values["clip_fraction_high"]) == (0.25, 0.25)


def test_vespo_kernel_is_one_on_policy_and_fades_on_long_rows():
    for size, shift, expected in ((3, 0.0, 1.0), (200, 0.05, 0.0), (200, -0.05, 0.0)):
        old = torch.full((size,), -2.0, dtype=torch.float64)
        logp = (old + shift).requires_grad_()
        rows = torch.zeros(size, dtype=torch.int64)
        result = policy_loss(
            logp=logp,
            proximal_logp=old,
            behaviour_logp=old,
            advantage=torch.ones(1, dtype=torch.float64),
            turn_id=rows,
            row_id=rows,
            config="vespo",
        )
        result.loss.backward()
        assert logp.grad.sum().item() == pytest.approx(-expected, abs=1e-6)


@given(lag=st.integers(0, 9), logp=st.floats(-9, 0), behaviour=st.floats(-9, 0))
def test_interpolated_proximal_is_the_definition(lag, logp, behaviour):
    """A token of version 10 − lag, trained on at version 10 with the proximal policy at 9."""
    sampled, proximal, target = 10 - lag, 9, 10
    alpha = 0.0
    if target > sampled:
        alpha = min(max((proximal - sampled) / (target - sampled), 0.0), 1.0)
    leaf = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
    mu = torch.tensor([behaviour], dtype=torch.float64)
    result = interpolate(leaf, mu, torch.tensor([lag]))
    assert not result.requires_grad
    assert result.item() == pytest.approx((1 - alpha) * behaviour + alpha * logp, abs=1e-12)


def call(**changes):
    zeros = torch.zeros(3)
    columns = {
        "logp": zeros,
        "proximal_logp": zeros,
        "behaviour_logp": zeros,
        "advantage": torch.ones(1),
        "turn_id": torch.zeros(3, dtype=torch.int64),
        "row_id": torch.zeros(3, dtype=torch.int64),
        "config": SYMMETRIC,
    }
    return policy_loss(**{**columns, **changes})


def test_advantage_may_vary_inside_a_row():
    result = call(config={**SYMMETRIC, "preset": "grpo"}, advantage=torch.tensor([3.0, 1.0, -1.0]))
    assert result.loss.item() == pytest.approx(-1.0)


def test_entropy_bonus_lowers_the_loss():
    result = call(entropy=torch.full((3,), 2.0), config={**SYMMETRIC, "entropy_coef": 0.5})
    assert result.loss.item() == pytest.approx(-2.0)


def test_no_policy_token_gives_a_zero_that_can_be_differentiated():
    logp = torch.full((3,), NAN, requires_grad=True)
    result = call(logp=logp, turn_id=torch.full((3,), -1))
    result.loss.backward()
    assert result.loss.item() == 0
    assert not logp.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "gsspo"}, "reference_logp is missing.*kl_coef"),
        ({"config": {**SYMMETRIC, "entropy_coef": 0.1}}, "entropy is missing"),
        ({"config": {**SYMMETRIC, "max_turn_lag": 1}}, "turn_lag is missing"),
        ({"proximal_logp": torch.zeros(2)}, r"proximal_logp has shape \(2,\)"),
        ({"advantage": torch.ones(2), "row_id": torch.full((3,), 2)}, "advantage has shape"),
        ({"row_id": torch.full((3,), -1)}, "row_id=-1"),
        ({"config": "ppo"}, "preset"),
        ({"config": {"preset": "reinforce", "dual_clip": 3.0}}, "log_prob"),
        ({"config": {"preset": "cispo", "dual_clip": 3.0}}, "cispo"),
        ({"config": {"preset": "vespo", "lag_clip": 0.5}}, "vespo"),
        ({"config": {"preset": "dppo_tv", "ratio_unit": "sequence"}}, "ratio_unit='sequence'"),
        ({"config": {"preset": "m2po", "ratio_unit": "subsequence"}}, "surrogate='m2po'"),
        ({"config": {"preset": "cispo", "rejection": "mean"}}, "contradicts rejection='mean'"),
        ({"turn_id": torch.tensor([0, 1, 0])}, "out of order at token 2: turn 0 of row 0"),
        ({"turn_id": torch.tensor([2, -1, 1])}, "out of order at token 2.*follows its turn 2"),
        ({"row_id": torch.zeros(3, dtype=torch.int32)}, "row_id has dtype torch.int32"),
        ({"turn_id": torch.zeros(3)}, "turn_id has dtype torch.float32"),
        ({"logp": torch.tensor([0, 0.5, 0])}, r"logp is 0.5 at token 1 \(row 0, turn 0\)"),
        ({"proximal_logp": torch.tensor([0, 0, 1.0])}, "proximal_logp is 1.0 at token 2"),
        ({"behaviour_logp": torch.tensor([0, NAN, 0])}, "behaviour_logp is nan at token 1"),
        ({"behaviour_logp": torch.tensor([-math.inf, 0, 0])}, "behaviour_logp is -inf at token 0"),
        ({"advantage": torch.tensor([NAN])}, "advantage is nan at token 0"),
        ({"turn_lag": torch.tensor([0, 0, -1])}, "turn_lag is -1 at token 2"),
    ],
)
def test_refuses_what_cannot_be_computed(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_impossible_value_is_found_in_its_row_and_turn():
    with pytest.raises(ValueError, match=r"behaviour_logp is nan at token 2 \(row 1, turn 3\)"):
        call(
            behaviour_logp=torch.tensor([0, NAN, NAN]),
            turn_id=torch.tensor([0, -1, 3]),
            row_id=torch.tensor([0, 0, 1]),
            advantage=torch.ones(2),
        )


@pytest.mark.parametrize("name", ["logp", "proximal_logp"])
def test_a_policy_that_diverged_is_not_bad_input(name):
    with pytest.raises(FloatingPointError, match=rf"{name} is nan at token 1 \(row 0, turn 0\)"):
        call(**{name: torch.tensor([-1.0, NAN, -1.0])})


def test_rows_may_interleave_and_turns_skip_numbers():
    turn_id, row_id = torch.tensor([3, 0, 3, 2, -1, 7]), torch.tensor([0, 1, 0, 1, 0, 0])
    values = -torch.rand(6)
    result = call(
        logp=values,
        proximal_logp=values,
        behaviour_logp=values,
        turn_id=turn_id,
        row_id=row_id,
        advantage=torch.tensor([1.0, 3.0]),
    )
    assert result.loss.item() == pytest.approx(-2.0)
