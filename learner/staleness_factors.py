"""The two factors of the weight of a stale behaviour policy (design 8).

    w_u = exp( mean_{t∈u} [ log π_prox(y_t) − log μ(y_t) ] ) = w_stale · w_mismatch

    w_stale    = exp( mean_{t∈u} [ log π_prox(y_t) − log π_v(y_t) ] )   older weights, one engine
    w_mismatch = exp( mean_{t∈u} [ log π_v(y_t) − log μ(y_t) ] )        same weights, two engines

where π_v is the learner's own policy under the weights of the version v that sampled token
t: there are several inside one unit where an update arrived in its middle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.diagnostics import LAG_BOUNDS, Buckets
from learner.metric_sums import MetricSums
from learner.packing import PackedBatch
from learner.ratios import ratio
from learner.segments import Layout
from learner.turn_lag import of_turns
from wfr.objective_config import RatioUnit

NAMES = ("w_stale", "w_mismatch")


@torch.no_grad()
def staleness_factors(
    proximal: Tensor, versioned: Tensor, batch: PackedBatch, unit: RatioUnit
) -> MetricSums:
    """Means over units of both factors, in all and by the lag of the turn, and their extremes.

    Args:
        proximal: [T] log π_prox.
        versioned: [T] log π_{v(t)}, each token under the weights that sampled it.
        batch: the micro-batch, with log μ.
        unit: on which the weight lives.
    """
    layout = Layout.of(batch.turn_id, batch.row_id)
    units = layout.segments(unit)
    weights = (1 / units.size(torch.float64)).where(units.member, 0)
    factors = torch.stack(
        [
            ratio(proximal.double(), versioned.double(), units),
            ratio(versioned.double(), batch.behaviour_logp.double(), units),
        ]
    )
    tops, bottoms = factors * weights, weights.expand_as(factors)
    buckets = Buckets.of("lag", of_turns(batch.turn_lag, layout), LAG_BOUNDS)
    ends = torch.where(units.member, torch.cat([-factors, factors]), float("-inf"))
    return MetricSums(
        torch.cat(
            [
                torch.stack([tops.sum(1), bottoms.sum(1)], dim=1),
                torch.stack([buckets.sums(tops), buckets.sums(bottoms)], dim=1),
            ]
        ),
        ends.amax(1),
        (*NAMES, *buckets.names(NAMES)),
        tuple(f"{name}_{end}" for end in ("min", "max") for name in NAMES),
    )
