"""The objective against its definition written out token by token, and against its identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.aggregation import Denominators
from learner.interpolation import interpolate
from learner.objectives import objective, policy_loss
from learner.segments import Layout
from wfr.config import OBJECTIVE_PRESETS

NAN = float("nan")
SYMMETRIC = {"kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}


def draw_rows(seed, turn_lengths):
    """Rows of turns; each turn has float64 columns [n], a lag and its row an advantage."""
    generator = torch.Generator().manual_seed(seed)

    def column(length, scale):
        return torch.randn(length, generator=generator, dtype=torch.float64) * scale

    rows = []
    for lengths in turn_lengths:
        turns = []
        for length in lengths:
            logp = column(length, 0.3) - 5
            others = {name: logp + column(length, 0.4) for name in ("prox", "mu", "ref")}
            lag = int(torch.randint(0, 4, (), generator=generator))
            turns.append({"logp": logp, **others, "lag": lag})
        rows.append({"turns": turns, "advantage": float(column(1, 1.0))})
    return rows


def flatten(rows, garbage=NAN, shuffle=None):
    """The rows as flat columns, one garbage token after each turn, in any order of tokens."""
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
        order = torch.randperm(len(flat["logp"]), generator=torch.Generator().manual_seed(shuffle))
        flat = {name: column[order] for name, column in flat.items()}
    return flat


def fast(rows, config, denominators=None, **options):
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
    )
    result.loss.backward()
    return result.loss.item(), logp.grad, result.metrics


def slow(rows, c):
    """The same from the definition, in loops over rows, turns and tokens of scalars."""
    leaves, gain = [], 0.0
    total = sum(len(turn["logp"]) for row in rows for turn in row["turns"])
    for row in rows:
        turns = [
            {**turn, "logp": [x.clone().requires_grad_() for x in turn["logp"]]}
            for turn in row["turns"]
        ]
        leaves += [x for turn in turns for x in turn["logp"]]
        live = [t for t in turns if c.max_turn_lag is None or t["lag"] <= c.max_turn_lag]
        tokens = sum(len(turn["logp"]) for turn in turns)
        for turn in live:
            for i in range(len(turn["logp"])):
                share = {
                    "token_mean": 1 / total,
                    "sequence_mean": 1 / len(rows) / tokens,
                    "subsequence_mean": 1 / len(rows) / len(turns) / len(turn["logp"]),
                    "constant": 1 / len(rows) / c.constant,
                }[c.aggregate]
                gain = gain + share * slow_term(live, turn, i, row["advantage"], c)
    loss = -gain if isinstance(gain, torch.Tensor) else torch.tensor(0.0)
    if loss.requires_grad:
        loss.backward()
    return loss.item(), [0.0 if x.grad is None else x.grad.item() for x in leaves]


def unit(kind, live, turn, i):
    """The (turn, index) pairs of the unit that token i of `turn` belongs to."""
    if kind == "token":
        return [(turn, i)]
    members = [turn] if kind == "subsequence" else live
    return [(member, j) for member in members for j in range(len(member["logp"]))]


def slow_term(live, turn, i, advantage, c):
    members = unit(c.ratio_unit, live, turn, i)
    ratio = (sum(t["logp"][j] - t["prox"][j] for t, j in members) / len(members)).exp()
    low, high = c.clip_low, c.clip_high
    if c.clip_scaling == "per_length":
        low, high = (min(e / math.sqrt(len(members)), c.clip_cap) for e in (low, high))
    shrink = 1 + c.lag_clip * max(t["lag"] for t, _ in members)
    low, high = low / shrink, high / shrink
    term = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    if c.dual_clip is not None and advantage < 0:
        term = torch.maximum(term, torch.tensor(c.dual_clip * advantage, dtype=torch.float64))
    if c.surrogate != "clipped":
        term = slow_surrogate(members, turn, i, advantage, c)
    weighed = unit(c.correction_unit or c.ratio_unit, live, turn, i)
    weight = math.exp(sum(float(t["prox"][j] - t["mu"][j]) for t, j in weighed) / len(weighed))
    weight = {
        "none": 1.0,
        "truncate": min(weight, c.correction_cap),
        "mask": weight if c.correction_low <= weight <= c.correction_high else 0.0,
        "decoupled": weight,
    }[c.correction]
    d = turn["ref"][i] - turn["logp"][i]
    divergence = {"k1": -d, "k2": d * d / 2, "k3": d.exp() - d - 1}[c.kl_estimator]
    return term * weight * c.lag_decay ** turn["lag"] - c.kl_coef * divergence


def slow_surrogate(members, turn, i, advantage, c):
    """What stands in for the clipped minimum: one token's value in plain floats times log π."""
    logp = turn["logp"][i]
    ratios = [math.exp(t["logp"][j].item() - t["prox"][j].item()) for t, j in members]
    if c.surrogate == "dppo_tv":
        moved = math.exp(logp.item()) - math.exp(turn["prox"][i].item())
        outside = moved > c.dppo_delta if advantage > 0 else moved < -c.dppo_delta
        log_ratio = logp - turn["prox"][i]
        gain = 0.0 if outside else log_ratio.exp() * advantage
        return gain - c.dppo_penalty * log_ratio * log_ratio
    if c.surrogate == "cispo":
        mean = math.prod(ratios) ** (1 / len(ratios))
        shrink = 1 + c.lag_clip * max(t["lag"] for t, _ in members)
        weight = min(max(mean, 1 - c.clip_low / shrink), 1 + c.clip_high / shrink)
    elif c.surrogate == "vespo":
        product = math.prod(ratios)
        k, rate = (2, 3) if advantage > 0 else (3, 2)
        weight = math.exp(rate) * product**k * math.exp(-rate * product)
    else:
        weight = 1.0
    return weight * advantage * logp


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
    expected, slopes = slow(rows, config)
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
    expected, slopes = slow(rows, config)
    assert loss == pytest.approx(expected, abs=1e-12)
    policy = flatten(rows)["turn_id"] >= 0
    assert gradient[policy].tolist() == pytest.approx(slopes, abs=1e-12)


@pytest.mark.parametrize("preset", OBJECTIVE_PRESETS)
def test_presets_match_the_definition(preset):
    rows, config = draw_rows(3, [[3, 1, 4], [2], [1, 1]]), objective(preset)
    loss, gradient, _ = fast(rows, preset)
    expected, slopes = slow(rows, config)
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


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), shapes=SHAPES, switches=GRID, data=st.data())
def test_micro_batches_ranks_padding_and_order_change_nothing(seed, shapes, switches, data):
    rows = draw_rows(seed, shapes)
    flat = flatten(rows)
    whole = Denominators.of(Layout.of(flat["turn_id"], flat["row_id"]))
    loss, gradient, metrics = fast(rows, switches)
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    parts = [part for part in (order[:cut], order[cut:]) if part]

    total, summed, slopes = 0.0, None, {}
    for part in parts:
        subset = [rows[i] for i in part]
        value, slope, sums = fast(subset, switches, whole, garbage=float("inf"), shuffle=seed)
        total += value
        summed = sums if summed is None else summed + sums
        keys = flatten(subset, shuffle=seed)["logp"]
        slopes |= dict(zip(keys.tolist(), slope.tolist(), strict=True))
    assert total == pytest.approx(loss, abs=1e-12)
    for key, slope in zip(flat["logp"].tolist(), gradient.tolist(), strict=True):
        if not math.isnan(key):
            assert slopes[key] == pytest.approx(slope, abs=1e-12)
    assert summed.values() == pytest.approx(metrics.values(), abs=1e-9)


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


def test_extreme_ratios_stay_finite():
    rows = draw_rows(8, [[2], [2]])
    rows[0]["turns"][0]["logp"] -= 5e4
    rows[1]["turns"][0]["prox"] -= 5e4
    for preset in ("gsspo", "grpo", "cispo", "dppo_tv", "vespo"):
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


def test_metrics_by_hand():
    rows = draw_rows(10, [[2, 1], [1]])
    _, _, metrics = fast(rows, SYMMETRIC)
    values = metrics.values()
    turns = [turn for row in rows for turn in row["turns"]]
    ratios = [float((turn["logp"] - turn["prox"]).mean().exp()) for turn in turns]
    assert values["ratio"] == pytest.approx(sum(ratios) / 3)
    assert (values["ratio_min"], values["ratio_max"]) == pytest.approx((min(ratios), max(ratios)))
    assert values["turns_per_row"] == pytest.approx(3 / 2)
    assert values["tokens_per_turn"] == pytest.approx(4 / 3)
    by_lag = {turn["lag"]: [] for turn in turns}
    for turn, ratio in zip(turns, ratios, strict=True):
        by_lag[turn["lag"]].append(ratio)
    for lag, members in by_lag.items():
        assert values[f"ratio/lag_{lag}"] == pytest.approx(sum(members) / len(members))
