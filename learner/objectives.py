"""The objective: one policy loss whose switches give REINFORCE, GRPO, DAPO, GSPO, GSsPO, CWRPO, ...

Three policies: θ being trained (`logp`), proximal (θ at the start of this optimizer step's batch)
and behaviour μ (whatever sampled each token). On units u of `ratio_unit`, with masked tokens
outside every sum and count (design 8):

    ρ_u = exp(mean_{t∈u} log π_θ − log π_prox)       w_u = exp(mean_{t∈u} log π_prox − log μ)
    L_u = min(ρ_u A, clip(ρ_u, 1 − ε_low, 1 + ε_high) A) · C(w_u) · γ^lag
    J   = Σ_t a_t [ L_{u(t)} − β KL_t + η H_t ]       loss = −J

where the token shares a_t are the aggregate (`learner/aggregation.py`). GSsPO is arXiv 2602.01202
eq. 6-7: sub-sequence ratio, sub-sequence mean. CWRPO is arXiv 2602.01664: token ratio, mean over
the policy tokens of a sequence. CISPO, DPPO, M2PO and VESPO, each in its file, replace the minimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learner import turn_lag as lags
from learner.aggregation import Denominators, shares
from learner.cispo import cispo
from learner.clipping import Clipped, clip, epsilons
from learner.columns import (
    Columns,
    check_order,
    check_shapes,
    check_types,
    check_values,
    clean,
    need,
    per_token,
)
from learner.correction import correction
from learner.diagnostics import Terms, diagnose
from learner.dppo import dppo
from learner.kl import kl
from learner.m2po import m2po, second_moment_cut
from learner.metric_sums import MetricSums
from learner.ratios import ratio
from learner.rejection import rejected
from learner.segments import Layout, Segments
from learner.vespo import vespo
from wfr.objective_config import ObjectiveConfig

ObjectiveLike = ObjectiveConfig | str | Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The scalar to minimise, and what to log about it.

    Attributes:
        loss: differentiable.
        metrics: sums and extremes that add up over micro-batches and ranks.
        kept: int64, tokens that counted.
    """

    loss: Tensor
    metrics: MetricSums
    kept: Tensor


def objective(config: ObjectiveLike) -> ObjectiveConfig:
    """Read a preset's name or a mapping such as {"preset": "gsspo", "kl_coef": 0.0}.

    Raises:
        ValueError: an unknown preset or key, or a value out of range.
    """
    if isinstance(config, ObjectiveConfig):
        return config
    values = {"preset": config} if isinstance(config, str) else config
    return ObjectiveConfig.model_validate(values)


def policy_loss(  # noqa: PLR0913 (one argument per column of a packed batch, keyword-only)
    *,
    logp: Tensor,
    proximal_logp: Tensor,
    behaviour_logp: Tensor,
    reference_logp: Tensor | None = None,
    advantage: Tensor,
    turn_id: Tensor,
    row_id: Tensor,
    turn_lag: Tensor | None = None,
    config: ObjectiveLike,
    denominators: Denominators | None = None,
    entropy: Tensor | None = None,
    moment_cut: float | None = None,
) -> PolicyLoss:
    """Loss of one packed micro-batch of T tokens; the micro-batches of a step add up.

    Summing the losses of all micro-batches on all ranks gives the loss of the step, so where a
    framework *averages* gradients over ranks, multiply each rank's loss by the number of ranks.

    Args:
        logp: [T] log π_θ of each token, float32 or float64; differentiable.
        proximal_logp: [T] log π_prox.
        behaviour_logp: [T] log μ as recorded by the sampler.
        reference_logp: [T] log π_ref of the frozen reference; needed if `kl_coef` > 0.
        advantage: [rows], or [T] to vary inside a row (a length of T is always read as per token).
        turn_id: int64 [T], turn of each token, unique within a row; −1: not a policy token.
        row_id: int64 [T], trajectory of each token, in [0, rows).
        turn_lag: int64 [T], optimizer steps since the token was sampled.
        config: an objective, a preset's name, or a mapping of what departs from a preset.
        denominators: counts over the whole optimizer step; none: this batch is the whole step.
        entropy: [T] entropy of π_θ at each token; needed if `entropy_coef` > 0.
        moment_cut: of `surrogate: m2po`, over the whole optimizer step, see
            `learner.m2po.second_moment_cut`; none: this batch is the whole step.

    Values at tokens with `turn_id` −1 are never used, whatever they are.

    Raises:
        ValueError: a column is missing for this objective, has the wrong length or type, or holds
            an impossible value at a policy token; the turns of a row are out of order.
        FloatingPointError: log π_θ or log π_prox is not finite at a policy token.
    """
    settings = objective(config)
    columns = _read(
        settings,
        logp=logp,
        proximal_logp=proximal_logp,
        behaviour_logp=behaviour_logp,
        reference_logp=reference_logp,
        advantage=advantage,
        turn_id=turn_id,
        row_id=row_id,
        turn_lag=turn_lag,
        entropy=entropy,
    )
    return _assemble(columns, settings, denominators or Denominators.of(columns.layout), moment_cut)


@torch.no_grad()
def second_moments(*, config: ObjectiveLike, **columns: Any) -> Tensor:
    """(log ρ)² of the tokens that count, [N]: what `moment_cut` is chosen from, over all batches.

    `columns` are the tensors of `policy_loss`, which raises the same errors.
    """
    read = _read(objective(config), **columns)
    return (read.logp - read.proximal)[read.keep].square()


def _read(  # noqa: PLR0913 (the columns of `policy_loss`)
    settings: ObjectiveConfig,
    *,
    logp: Tensor,
    proximal_logp: Tensor,
    behaviour_logp: Tensor,
    advantage: Tensor,
    turn_id: Tensor,
    row_id: Tensor,
    reference_logp: Tensor | None = None,
    turn_lag: Tensor | None = None,
    entropy: Tensor | None = None,
) -> Columns:
    """Check and clean the columns, and say which tokens count."""
    need(reference_logp, "reference_logp", "kl_coef", settings.kl_coef > 0)
    need(entropy, "entropy", "entropy_coef", settings.entropy_coef > 0)
    need(turn_lag, "turn_lag", "max_turn_lag, lag_decay or lag_clip", settings.uses_lag)
    check_shapes(
        logp.numel(),
        logp=logp,
        proximal_logp=proximal_logp,
        behaviour_logp=behaviour_logp,
        reference_logp=reference_logp,
        entropy=entropy,
        turn_id=turn_id,
        row_id=row_id,
        turn_lag=turn_lag,
    )
    check_types(turn_id=turn_id, row_id=row_id, turn_lag=turn_lag)
    layout = Layout.of(turn_id, row_id)
    check_order(layout)
    check_values(
        layout,
        logp=logp,
        proximal_logp=proximal_logp,
        behaviour_logp=behaviour_logp,
        reference_logp=reference_logp,
        advantage=per_token(advantage, layout),
        turn_lag=turn_lag,
    )
    lag = None if turn_lag is None else lags.of_turns(turn_lag, layout)
    keep = layout.policy if lag is None else layout.policy & lags.fresh(lag, settings)
    real = torch.promote_types(logp.dtype, torch.float32)
    out = rejected(
        clean(proximal_logp, keep, real), clean(behaviour_logp, keep, real), layout, keep, settings
    )
    keep = keep & ~out
    return Columns(
        layout=layout,
        keep=keep,
        rejected=out,
        lag=lag,
        logp=clean(logp, keep, real),
        proximal=clean(proximal_logp, keep, real).detach(),
        behaviour=clean(behaviour_logp, keep, real).detach(),
        advantage=clean(per_token(advantage, layout), keep, real).detach(),
        reference=None if reference_logp is None else clean(reference_logp, keep, real).detach(),
        entropy=None if entropy is None else clean(entropy, keep, real),
    )


def _assemble(
    columns: Columns, config: ObjectiveConfig, denominators: Denominators, cut: float | None
) -> PolicyLoss:
    units = columns.layout.segments(config.ratio_unit, columns.keep)
    ratios = ratio(columns.logp, columns.proximal, units)
    value, clipped = _surrogate(columns, units, ratios, config, cut)
    corrected = correction(columns, config)

    share = shares(columns.layout, config, denominators, ratios.dtype)
    gain = value * corrected.factor
    if columns.lag is not None:
        gain = gain * lags.decay(columns.lag, config, gain.dtype)
    penalty = _penalty(columns, config)
    loss = -(share * torch.where(columns.keep, gain - penalty, 0)).sum()
    terms = Terms(columns, units, ratios, clipped, corrected, share * gain, share * penalty)
    return PolicyLoss(loss, diagnose(terms, denominators), columns.keep.sum())


def _surrogate(
    columns: Columns, units: Segments, ratios: Tensor, config: ObjectiveConfig, cut: float | None
) -> tuple[Tensor, Clipped]:
    """Value of each token before correction, [T], and where a bound held."""
    advantage, logp = columns.advantage, columns.logp
    bounds = epsilons(config, units, columns.ages, ratios.dtype)
    if config.surrogate == "cispo":
        return cispo(logp, ratios, advantage, bounds)
    if config.surrogate == "dppo_tv":
        return dppo(logp, columns.proximal, ratios, advantage, config)
    if config.surrogate == "m2po":
        change = logp - columns.proximal
        if cut is None:
            cut = second_moment_cut(change.detach()[columns.keep].square(), config.m2_budget)
        return m2po(ratios, change, advantage, cut)
    clipped = clip(ratios, advantage, bounds, config.dual_clip)
    if config.surrogate == "vespo":
        return vespo(logp, columns.proximal, advantage, units), clipped
    if config.surrogate == "log_prob":
        return logp * advantage, clipped
    return clipped.ratio * advantage, clipped


def _penalty(columns: Columns, config: ObjectiveConfig) -> Tensor:
    """Per-token β KL − η H: [T]."""
    penalty = torch.zeros_like(columns.logp)
    if config.kl_coef > 0 and columns.reference is not None:
        penalty = penalty + config.kl_coef * kl(
            columns.logp, columns.reference, config.kl_estimator
        )
    if config.entropy_coef > 0 and columns.entropy is not None:
        penalty = penalty - config.entropy_coef * columns.entropy
    return penalty
