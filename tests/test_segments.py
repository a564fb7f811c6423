"""Segments of packed batches against loops over tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.segments import Layout

TOKENS = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 2)), min_size=1, max_size=30)


def key(unit, position, row, turn):
    return {"token": position, "subsequence": (row, turn), "sequence": row}[unit]


@pytest.mark.parametrize("unit", ["token", "subsequence", "sequence"])
@given(tokens=TOKENS)
def test_reductions_by_hand(unit, tokens):
    layout = Layout.of(torch.tensor([t for _, t in tokens]), torch.tensor([r for r, _ in tokens]))
    segments = layout.segments(unit)
    members = {}
    for position, (row, turn) in enumerate(tokens):
        if turn >= 0:
            members.setdefault(key(unit, position, row, turn), []).append(position)
    outside = ~layout.policy
    values = torch.arange(1.0, len(tokens) + 1, dtype=torch.float64)
    mean = segments.spread(segments.mean(values.masked_fill(outside, float("nan"))))
    largest = segments.spread(segments.maximum(values.long().masked_fill(outside, 10**6)))
    size = segments.size(torch.float64)
    for positions in members.values():
        own = values[positions]
        assert mean[positions].tolist() == pytest.approx([float(own.mean())] * len(own))
        assert largest[positions].tolist() == [int(own.max())] * len(own)
        assert size[positions].tolist() == [len(own)] * len(own)


def test_turns_per_row_counts_turns_that_exist():
    layout = Layout.of(torch.tensor([5, 5, -1, 0, 2]), torch.tensor([0, 0, 1, 2, 2]))
    assert layout.turns_per_row().tolist() == [1, 0, 2]


def test_gradient_ignores_garbage_outside_segments():
    layout = Layout.of(torch.tensor([0, 0, -1]), torch.tensor([0, 0, 0]))
    values = torch.tensor([1.0, 2.0, float("inf")], requires_grad=True)
    layout.segments("sequence").mean(values).sum().backward()
    assert values.grad.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("unit", ["token", "subsequence", "sequence"])
@settings(max_examples=25)
@given(tokens=TOKENS)
def test_gradients_are_those_of_a_membership_matrix(unit, tokens):
    """Sum and spread have gradients of their own; both against torch's, to the second order."""
    layout = Layout.of(torch.tensor([t for _, t in tokens]), torch.tensor([r for r, _ in tokens]))
    segments = layout.segments(unit)
    values = torch.arange(1.0, len(tokens) + 1, dtype=torch.float64).sin().requires_grad_()
    count = len(segments.sizes)
    weights = torch.arange(1.0, count + 1, dtype=torch.float64)

    belongs = (segments.index[:, None] == torch.arange(count)).to(values.dtype)

    def plain(x):
        return x @ belongs

    for mine, theirs in (
        (segments.sum, plain),
        (
            lambda x: segments.spread(segments.sum(x).square()),
            lambda x: belongs @ plain(x).square(),
        ),
    ):
        scale = weights if theirs is plain else values.detach().cos()
        found = torch.autograd.grad((mine(values) * scale).sum(), values)[0]
        wanted = torch.autograd.grad((theirs(values) * scale).sum(), values)[0]
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
    assert torch.autograd.gradgradcheck(lambda x: segments.spread(segments.sum(x) ** 3), values)
