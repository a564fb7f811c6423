"""Snapshots, and the two factors of the staleness weight that are measured with them."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from test_policy import build, make_rows, separately

from learner.packing import pack
from learner.policy import Policy
from learner.snapshots import Snapshots
from learner.staleness_probe import StalenessProbe
from wfr.learner_config import SnapshotsConfig

ROWS = [row for row in make_rows((7, 12, 5, 9)) if len(row) > 3]
VERSION = 5


def snapshot(value, count=2):
    return [torch.full((count, 4), float(value)), torch.full((3,), float(value))]


ONE = (2 * 4 + 3) * 4


def test_snapshots_are_copies():
    weights, snapshots = snapshot(1), Snapshots(ONE)
    snapshots.keep(7, weights)
    weights[0].zero_()
    assert snapshots.of(7)[0].eq(1).all()
    assert snapshots.size == ONE


def test_the_least_recently_used_snapshot_goes_first():
    snapshots = Snapshots(3 * ONE)
    for version in range(3):
        snapshots.keep(version, snapshot(version))
    snapshots.of(0)
    snapshots.keep(3, snapshot(3))
    assert snapshots.versions == {0, 2, 3}
    snapshots.keep(2, snapshot(2.5))
    assert snapshots.of(2)[0].eq(2.5).all()
    assert snapshots.size == 3 * ONE


def test_a_limit_below_one_copy_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"snapshots.mib=3.8.* is less than .*4.0 MiB"):
        Snapshots(4_000_000).keep(0, [torch.zeros(1 << 20)])


class Holder:
    """A policy in the place of the engine: one rank, nothing partitioned."""

    def __init__(self, policy):
        self.policy = policy

    def shards(self):
        return [parameter.detach() for parameter in self.policy.parameters()]

    def load(self, shards):
        for own, value in zip(self.shards(), shards, strict=True):
            own.copy_(value)

    def reduce(self, metrics):
        return metrics


def rig(unit="subsequence", **settings):
    """A probe over a policy that moves with every version, and the policy of each version."""
    policy = Policy(build(tied=False), temperature=0.7)
    holder = Holder(policy)

    @torch.no_grad()
    def score(batches):
        return [policy(**batch.inputs)[0] for batch in batches]

    config = SnapshotsConfig(mib=64, **{"every": 1, "trajectories": 16, **settings})
    probe = StalenessProbe(
        config, unit, holder, lambda rows: [pack(rows[::2]), pack(rows[1::2])], score
    )
    policies = []
    generator = torch.Generator().manual_seed(1)
    for version in range(VERSION + 1):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.05 * torch.randn(
                    parameter.shape, generator=generator, dtype=parameter.dtype
                )
        policies.append(copy.deepcopy(policy))
        if version < VERSION:
            probe.measure(version, [], 1)
    return probe, policy, policies


def scored(policies, version, row):
    """Log-probabilities of a row under a version, [n], from all logits of the row alone."""
    plain = build(tied=False)
    plain.load_state_dict(policies[version].model.state_dict())
    with torch.no_grad():
        return separately(plain, row, 0.7)[0]


def aged(policies, mismatch=0.0):
    """Rows whose μ is that of the versions that sampled them, times e^−mismatch.

    The first row was written under one version per token, so that updates fall inside its turns.
    """
    rng = np.random.default_rng(3)
    rows = []
    for index, row in enumerate(ROWS):
        versions = (
            rng.integers(1, VERSION + 1, len(row)) if index == 0 else np.full(len(row), index)
        )
        versions = np.where(row.turn_id >= 0, versions, -1)
        behaviour = np.zeros(len(row))
        for version in set(versions[versions >= 0].tolist()):
            logp = scored(policies, version, row).numpy()
            behaviour = np.where(versions == version, logp - mismatch, behaviour)
        oldest = [versions[row.turn_id == turn].min() for turn in range(row.turn_id.max() + 1)]
        lag = np.where(row.turn_id >= 0, VERSION - np.array(oldest)[row.turn_id], 0)
        rows.append(
            dataclasses.replace(row, version=versions, behaviour_logp=behaviour, turn_lag=lag)
        )
    return rows


def units_of(row, unit):
    written = row.turn_id >= 0
    if unit == "sequence":
        return [written]
    if unit == "token":
        return [np.arange(len(row)) == t for t in np.flatnonzero(written)]
    return [row.turn_id == turn for turn in range(row.turn_id.max() + 1)]


@pytest.mark.parametrize("unit", ["token", "subsequence", "sequence"])
def test_with_an_exact_sampler_all_of_the_weight_is_staleness(unit):
    probe, policy, policies = rig(unit)
    rows = aged(policies)
    before = copy.deepcopy(policy.state_dict())
    metrics = probe.measure(VERSION, rows, 1)

    by_lag, every = {}, []
    for row in rows:
        change = scored(policies, VERSION, row).numpy() - row.behaviour_logp
        for chosen in units_of(row, unit):
            weight = math.exp(change[chosen].mean())
            every.append(weight)
            by_lag.setdefault(int(row.turn_lag[chosen].max()), []).append(weight)
    assert len(by_lag) >= 3
    assert metrics["w_stale"] == pytest.approx(np.mean(every), rel=1e-4)
    assert metrics["w_stale_min"] == pytest.approx(min(every), rel=1e-4)
    assert metrics["w_stale_max"] == pytest.approx(max(every), rel=1e-4)
    for name in ("w_mismatch", "w_mismatch_min", "w_mismatch_max"):
        assert metrics[name] == pytest.approx(1, abs=1e-5)
    assert metrics["w_trajectories"] == len(rows)
    if unit != "sequence":  # whose turns differ in lag
        for lag, weights in by_lag.items():
            label = f"lag_{lag}" if lag <= 4 else "lag_5_8"
            assert metrics[f"w_stale/{label}"] == pytest.approx(np.mean(weights), rel=1e-4)
            assert metrics[f"w_mismatch/{label}"] == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_mismatch_of_the_engines_shows_at_every_lag():
    probe, _, policies = rig()
    exact = probe.measure(VERSION, aged(policies), 1)
    metrics = probe.measure(VERSION, aged(policies, mismatch=0.1), 1)
    lags = [name for name in metrics if name.startswith("w_mismatch/lag")]
    assert len(lags) >= 3
    for name in ("w_mismatch", *lags):
        assert metrics[name] == pytest.approx(math.exp(0.1), rel=1e-5)
    assert metrics["w_stale"] == pytest.approx(exact["w_stale"], rel=1e-6)


def test_trajectories_of_forgotten_versions_are_not_measured():
    probe, _, policies = rig()
    rows = aged(policies)
    probe._snapshots._copies.pop(1)
    metrics = probe.measure(VERSION, rows, 1)
    kept = [row for row in rows if 1 not in row.version]
    assert 0 < len(kept) < len(rows)
    assert metrics["w_trajectories"] == len(kept)
    assert probe.measure(VERSION, [row for row in rows if 1 in row.version], 1) == {}


def test_only_some_steps_and_trajectories_are_measured_and_the_choice_repeats():
    probe, _, policies = rig(every=5, trajectories=2)
    rows = aged(policies)
    first = probe.measure(VERSION, rows, 1)
    assert first["w_trajectories"] == 2
    assert probe.measure(VERSION, rows, 1) == first
    probe, _, _ = rig(every=4)
    assert probe.measure(VERSION, rows, 1) == {}
    assert probe._snapshots.versions == set(range(VERSION + 1))
