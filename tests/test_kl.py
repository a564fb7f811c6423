"""Estimators of the KL divergence by their formulas and against the exact value."""

import pytest
import torch

from learner.kl import kl


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", 0.3), ("k2", 0.045), ("k3", 0.0408182206817179)]
)
def test_by_hand(estimator, expected):
    logp, base = torch.tensor([-1.0, -2.0]).double(), torch.tensor([-1.3, -2.0]).double()
    assert kl(logp, base, estimator).tolist() == pytest.approx([expected, 0.0])


@pytest.mark.parametrize(("estimator", "tolerance"), [("k1", 1e-12), ("k2", 0.02), ("k3", 1e-12)])
def test_expectation_is_the_divergence(estimator, tolerance):
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    base = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    exact = float((policy * (policy / base).log()).sum())
    expected = float((policy * kl(policy.log(), base.log(), estimator)).sum())
    assert expected == pytest.approx(exact, rel=tolerance or None)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_k3_is_bounded(gap):
    logp = torch.tensor([-1.0], requires_grad=True)
    value = kl(logp, logp.detach() + gap, "k3")
    value.sum().backward()
    assert value.item() == 10
    assert logp.grad.isfinite().all()


def test_k3_keeps_its_precision_near_zero():
    logp = torch.tensor([-1.0])
    assert kl(logp, logp + 2e-4, "k3").item() == pytest.approx(2e-8, rel=0.2)
