"""Configuration: the objective, its switches and its presets."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section

RatioUnit = Literal["token", "subsequence", "sequence"]
Aggregate = Literal["token_mean", "sequence_mean", "subsequence_mean", "constant"]
Correction = Literal["none", "truncate", "mask", "decoupled"]
KlEstimator = Literal["k1", "k2", "k3"]
AdvantageKind = Literal[
    "zscore",
    "centred",
    "leave_one_out",
    "source_partitioned",
    "source_partitioned_legacy",
    "batch",
]

_TOKEN_SEQUENCE = {"ratio_unit": "token", "aggregate": "sequence_mean"}
_TOKEN_STEP = {"ratio_unit": "token", "aggregate": "token_mean", "kl_coef": 0.0}
_AGAINST_SAMPLER = {"proximal": "behaviour", "correction": "none"}

OBJECTIVE_PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
    {
        "gsspo": {},
        "grpo": _TOKEN_SEQUENCE,
        "cwrpo": {**_TOKEN_SEQUENCE, "kl_coef": 0.005},
        "dapo": {
            "ratio_unit": "token",
            "aggregate": "token_mean",
            "clip_high": 0.28,
            "kl_coef": 0.0,
            "zero_variance": "resample",
        },
        "gspo": {
            "ratio_unit": "sequence",
            "aggregate": "sequence_mean",
            "clip_low": 3e-4,
            "clip_high": 4e-4,
            "kl_coef": 0.0,
        },
        "reinforce": {
            **_TOKEN_SEQUENCE,
            "surrogate": "log_prob",
            "kl_coef": 0.0,
            "correction": "none",
        },
        "cispo": {
            **_TOKEN_STEP,
            "surrogate": "cispo",
            "clip_low": 1.0,
            "clip_high": 4.0,
            **_AGAINST_SAMPLER,
        },
        "dppo_tv": {**_TOKEN_STEP, "surrogate": "dppo_tv", **_AGAINST_SAMPLER},
        "vespo": {
            **_TOKEN_STEP,
            "surrogate": "vespo",
            "ratio_unit": "sequence",
            **_AGAINST_SAMPLER,
        },
        "m2po": {**_TOKEN_STEP, "surrogate": "m2po", **_AGAINST_SAMPLER},
        "a3po": {**_TOKEN_STEP, "proximal": "interpolated", "correction": "decoupled"},
    }
)


class ObjectiveConfig(Section):
    """The objective: a preset, and what departs from it (design 8)."""

    preset: Literal[
        "gsspo",
        "grpo",
        "cwrpo",
        "dapo",
        "gspo",
        "reinforce",
        "cispo",
        "dppo_tv",
        "vespo",
        "m2po",
        "a3po",
    ] = "gsspo"
    surrogate: Literal["clipped", "log_prob", "cispo", "dppo_tv", "vespo", "m2po"] = "clipped"
    """`clipped`: PPO's clipped ratio; `log_prob`: the policy gradient itself, without a ratio;
    `cispo`: that gradient weighted by the clipped ratio; `vespo`: by a smooth kernel of the unit's
    product of ratios; `dppo_tv`: the ratio where the probability moved by at most `dppo_delta`;
    `m2po`: the ratio of tokens whose squared log-ratios average to at most `m2_budget`."""
    ratio_unit: RatioUnit = "subsequence"
    """Unit on which the importance ratio lives."""
    aggregate: Aggregate = "subsequence_mean"
    """How per-unit terms become one number; denominators count all policy tokens."""
    constant: float = Field(1.0, gt=0)
    """Denominator per trajectory of `aggregate: constant`."""
    clip_low: float = Field(0.2, gt=0, le=1)
    """ε_low: the ratio is clipped from below at 1 − ε_low where the advantage is negative."""
    clip_high: float = Field(0.2, gt=0)
    """ε_high: the ratio is clipped from above at 1 + ε_high where the advantage is positive."""
    clip_scaling: Literal["none", "per_length"] = "none"
    """`per_length`: ε·|u|^−1/2, at most `clip_cap`, for a unit of |u| tokens."""
    clip_cap: float = Field(0.2, gt=0, lt=1)
    """Largest ε of `clip_scaling: per_length`."""
    dual_clip: float | None = Field(None, gt=1)
    """Largest ratio c where the advantage is negative; none: no bound."""
    dppo_delta: float = Field(0.2, gt=0, lt=1)
    """δ of `surrogate: dppo_tv`, a difference of probabilities."""
    dppo_penalty: float = Field(1e-3, ge=0)
    """Coefficient of (log ρ)² of `surrogate: dppo_tv`."""
    m2_budget: float = Field(0.04, gt=0)
    """τ of `surrogate: m2po`: largest mean of (log ρ)² over the tokens that are kept."""
    kl_estimator: KlEstimator = "k3"
    kl_coef: float = Field(0.001, ge=0)
    """β of the KL divergence from the frozen reference; 0: no reference is loaded."""
    entropy_coef: float = Field(0.0, ge=0)
    """Coefficient of the entropy bonus."""
    proximal: Literal["current", "behaviour", "interpolated"] = "current"
    """Centre of the trust region: the weights before this batch's first update; or the sampler's
    (the plain clipped ratio, to which `correction: none` belongs); or, by its lag, between the
    sampler's and the weights being trained, without a forward pass."""
    correction: Correction = "truncate"
    """Weight for stale behaviour policies: 1, min(w, C), w inside a band and 0 outside, or w."""
    correction_unit: RatioUnit | None = None
    """Unit of the weight w; none: the ratio's unit."""
    correction_cap: float = Field(2.0, gt=0)
    """C of `correction: truncate`."""
    correction_low: float = Field(0.5, ge=0, lt=1)
    """Lower end of the band of `correction: mask`."""
    correction_high: float = Field(2.0, gt=1)
    """Upper end of the band of `correction: mask`."""
    rejection: Literal["none", "mean", "any"] = "none"
    """Units left out altogether: `mean`, where the geometric mean w lies outside the band (the
    geometric mask); `any`, where w of any single token does."""
    rejection_unit: RatioUnit | None = None
    """Unit that is rejected as a whole; none: the ratio's unit."""
    rejection_low: float = Field(0.5, ge=0, lt=1)
    """Lower end of the band of `rejection`."""
    rejection_high: float = Field(2.0, gt=1)
    """Upper end of the band of `rejection`."""
    max_turn_lag: int | None = Field(None, ge=0)
    """Turns older than this many optimizer steps are masked; none: no turn is."""
    lag_decay: float = Field(1.0, gt=0, le=1)
    """γ: a turn's term is weighted by γ^lag."""
    lag_clip: float = Field(0.0, ge=0)
    """κ: a unit's ε is divided by 1 + κ·lag."""
    advantage: AdvantageKind = "zscore"
    """Reward minus the group's mean, over its spread or not; or minus the mean of the siblings; or
    minus the mean of all that the batch holds of the task's source, over their spread; or minus
    the mean of the whole batch, over the batch's spread."""
    zero_variance: Literal["keep", "drop", "resample"] = "keep"
    """Groups whose rewards are all equal: keep them in the denominators; leave them out of the
    step; or discard them as they come in and sample others in their place."""
    max_resamples: int = Field(10, ge=1)
    """Most batches' worth of groups that `zero_variance: resample` discards for one batch; beyond
    it such groups are kept."""

    @property
    def uses_lag(self) -> bool:
        """True when the objective cannot be computed without the lag of each turn."""
        return self.max_turn_lag is not None or self.lag_decay < 1 or self.lag_clip > 0

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = OBJECTIVE_PRESETS.get(values.get("preset", "gsspo"), {})
        return {**preset, **values}

    @model_validator(mode="after")
    def _one_correction(self) -> Self:
        for name in ("correction", "rejection"):
            value = getattr(self, name)
            if self.proximal == "behaviour" and value != "none":
                raise ValueError(
                    f"objective.proximal='behaviour' contradicts {name}={value!r}: the ratio "
                    f"already corrects for the behaviour policy; set {name} to 'none'"
                )
        return self

    @model_validator(mode="after")
    def _resample_groups(self) -> Self:
        beyond = self.advantage in ("batch", "source_partitioned", "source_partitioned_legacy")
        if self.zero_variance == "resample" and beyond:
            raise ValueError(
                f"objective.zero_variance='resample' contradicts advantage={self.advantage!r}, "
                "which compares beyond the group: a group of equal rewards still teaches; set "
                "zero_variance to 'keep' or 'drop'"
            )
        return self

    @model_validator(mode="after")
    def _clips_need_ratio(self) -> Self:
        scales = self.surrogate in ("clipped", "cispo")
        if (self.dual_clip is not None and self.surrogate != "clipped") or (
            self.lag_clip > 0 and not scales
        ):
            raise ValueError(
                f"objective.surrogate={self.surrogate!r} has no such clip, so dual_clip="
                f"{self.dual_clip} and lag_clip={self.lag_clip} contradict it"
            )
        if self.surrogate in ("dppo_tv", "m2po") and self.ratio_unit != "token":
            raise ValueError(
                f"objective.ratio_unit={self.ratio_unit!r} contradicts surrogate="
                f"{self.surrogate!r}, which compares the probabilities of tokens; set ratio_unit "
                "to 'token'"
            )
        return self
