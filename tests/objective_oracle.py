"""The objective from its definition: one scalar per token, units found by comparing tokens.

Nothing here is vectorised, scattered or shared with `learner`: a token is a record, a unit is the
list of tokens that agree in row (and turn), and every mean is a Python sum. Gradients come from
torch on single scalars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass
class Token:
    """One policy token; `place` are row, turn and position."""

    place: tuple[int, int, int]
    logp: torch.Tensor
    prox: float
    mu: float
    ref: float
    lag: int
    advantage: float

    @property
    def log_ratio(self):
        return self.logp - self.prox

    @property
    def change(self):
        """The same as a plain number."""
        return self.logp.item() - self.prox

    @property
    def log_weight(self):
        return self.prox - self.mu


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


def tokens_of(rows):
    """Every token of the rows, each with a leaf of its own."""
    return [
        Token(
            (r, k, i),
            turn["logp"][i].clone().requires_grad_(),
            *(float(turn[name][i]) for name in ("prox", "mu", "ref")),
            turn["lag"],
            row["advantage"],
        )
        for r, row in enumerate(rows)
        for k, turn in enumerate(row["turns"])
        for i in range(len(turn["logp"]))
    ]


def unit_of(token, among, kind):
    """The tokens that share the unit `kind` with `token`."""
    depth = {"sequence": 1, "subsequence": 2, "token": 3}[kind]
    return [other for other in among if other.place[:depth] == token.place[:depth]]


def slow(rows, c):
    """(loss, gradient by logp in the order of the tokens, the tokens that counted)."""
    tokens = tokens_of(rows)
    young = [t for t in tokens if c.max_turn_lag is None or t.lag <= c.max_turn_lag]
    live = [t for t in young if not _rejected(t, young, c)]
    kept = _second_moment_kept(live, c.m2_budget)
    gain = sum(_share(t, tokens, c) * _term(t, live, kept, c) for t in live)
    loss = -gain if isinstance(gain, torch.Tensor) else torch.tensor(0.0)
    if loss.requires_grad:
        loss.backward()
    gradient = [0.0 if t.logp.grad is None else t.logp.grad.item() for t in tokens]
    return loss.item(), gradient, live


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def _rejected(token, young, c):
    band = unit_of(token, young, c.rejection_unit or c.ratio_unit)
    means = {
        "none": [],
        "mean": [math.exp(_mean(t.log_weight for t in band))],
        "any": [math.exp(t.log_weight) for t in band],
    }[c.rejection]
    return any(not c.rejection_low <= mean <= c.rejection_high for mean in means)


def _second_moment_kept(live, budget):
    """Take the worst token away until what is left is within the budget."""
    kept = sorted(live, key=lambda t: t.change**2)
    while kept and _mean(t.change**2 for t in kept) > budget:
        kept.pop()
    return {t.place for t in kept}


def _share(token, tokens, c):
    rows = len({t.place[0] for t in tokens})
    row = unit_of(token, tokens, "sequence")
    turns = len({t.place[1] for t in row})
    return {
        "token_mean": 1 / len(tokens),
        "sequence_mean": 1 / rows / len(row),
        "subsequence_mean": 1 / rows / turns / len(unit_of(token, tokens, "subsequence")),
        "constant": 1 / rows / c.constant,
    }[c.aggregate]


def _term(token, live, kept, c):
    weighed = unit_of(token, live, c.correction_unit or c.ratio_unit)
    weight = math.exp(_mean(t.log_weight for t in weighed))
    weight = {
        "none": 1.0,
        "truncate": min(weight, c.correction_cap),
        "mask": weight if c.correction_low <= weight <= c.correction_high else 0.0,
        "decoupled": weight,
    }[c.correction]
    d = token.ref - token.logp
    divergence = {"k1": -d, "k2": d * d / 2, "k3": d.exp() - d - 1}[c.kl_estimator]
    value = _SURROGATES[c.surrogate](token, unit_of(token, live, c.ratio_unit), kept, c)
    return value * weight * c.lag_decay**token.lag - c.kl_coef * divergence


def _bounds(unit, c):
    low, high = c.clip_low, c.clip_high
    if c.clip_scaling == "per_length":
        low, high = (min(e / math.sqrt(len(unit)), c.clip_cap) for e in (low, high))
    shrink = 1 + c.lag_clip * max(t.lag for t in unit)
    return 1 - low / shrink, 1 + high / shrink


def _clipped(token, unit, kept, c):
    low, high = _bounds(unit, c)
    ratio = _mean(t.log_ratio for t in unit).exp()
    value = torch.minimum(ratio * token.advantage, ratio.clamp(min=low, max=high) * token.advantage)
    if c.dual_clip is not None and token.advantage < 0:
        floor = torch.tensor(c.dual_clip * token.advantage, dtype=torch.float64)
        value = torch.maximum(value, floor)
    return value


def _log_prob(token, unit, kept, c):
    return token.advantage * token.logp


def _cispo(token, unit, kept, c):
    low, high = _bounds(unit, c)
    ratio = math.prod(math.exp(t.change) for t in unit) ** (1 / len(unit))
    return min(max(ratio, low), high) * token.advantage * token.logp


def _vespo(token, unit, kept, c):
    product = math.prod(math.exp(t.change) for t in unit)
    k, rate = (2, 3) if token.advantage > 0 else (3, 2)
    kernel = math.exp(rate) * product**k * math.exp(-rate * product)
    return kernel * token.advantage * token.logp


def _dppo_tv(token, unit, kept, c):
    moved = math.exp(token.logp.item()) - math.exp(token.prox)
    outside = moved > c.dppo_delta if token.advantage > 0 else moved < -c.dppo_delta
    gain = 0.0 if outside else token.log_ratio.exp() * token.advantage
    return gain - c.dppo_penalty * token.log_ratio * token.log_ratio


def _m2po(token, unit, kept, c):
    return token.log_ratio.exp() * token.advantage if token.place in kept else 0 * token.logp


_SURROGATES = {
    "clipped": _clipped,
    "log_prob": _log_prob,
    "cispo": _cispo,
    "vespo": _vespo,
    "dppo_tv": _dppo_tv,
    "m2po": _m2po,
}
