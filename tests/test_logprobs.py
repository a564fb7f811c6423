"""Chunked log-probabilities against all logits at once."""

import pytest
import torch

from learner import logprobs
from learner.logprobs import Tile, token_logprobs


def make_inputs(tokens=23, width=6, vocabulary=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def naive(hidden, weight, targets, temperature):
    table = torch.log_softmax(hidden @ weight.T / temperature, -1)
    return table.gather(1, targets[:, None])[:, 0], -(table.exp() * table).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("tile", [(1, 1), (5, 4), (23, 3), (7, 11), (100, 100), None])
def test_values_and_gradients_equal_the_naive_way(temperature, tile):
    hidden, weight, targets = make_inputs()
    upstream = torch.randn(2, len(targets), dtype=torch.float64)
    expected = naive(hidden, weight, targets, temperature)
    slopes = torch.autograd.grad(expected, (hidden, weight), tuple(upstream))
    tile = tile and Tile(*tile)
    result = token_logprobs(hidden, weight, targets, temperature=temperature, tile=tile)
    chunked = torch.autograd.grad(result, (hidden, weight), tuple(upstream))
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(chunked, slopes, atol=1e-12, rtol=0)


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_of_one_output_alone(output):
    hidden, weight, targets = make_inputs()
    (expected,) = torch.autograd.grad(naive(hidden, weight, targets, 1.0)[output].sum(), hidden)
    result = token_logprobs(hidden, weight, targets, tile=Tile(4, 5))[output].sum()
    torch.testing.assert_close(torch.autograd.grad(result, hidden)[0], expected)


def test_frozen_head_gets_no_gradient():
    hidden, weight, targets = make_inputs()
    weight.requires_grad_(False)
    token_logprobs(hidden, weight, targets)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad.any()


def test_reduced_hidden_states_accumulate_in_float32():
    hidden, weight, targets = make_inputs(width=512, dtype=torch.bfloat16)
    expected = naive(hidden.double(), weight.double(), targets, 1.0)
    result = token_logprobs(hidden, weight, targets, tile=Tile(7, 4))
    assert result[0].dtype == torch.float32
    torch.testing.assert_close(result[0].double(), expected[0], atol=1e-4, rtol=1e-5)
    result[0].sum().backward()
    assert weight.grad.dtype == torch.bfloat16


def test_autocast_does_not_reduce_the_products():
    hidden, weight, targets = make_inputs(dtype=torch.float32)
    expected = token_logprobs(hidden, weight, targets)[0]
    with torch.autocast("cpu", torch.bfloat16):
        result = token_logprobs(hidden, weight, targets)[0]
    assert torch.equal(result, expected)


def test_no_targets_still_reach_the_parameters():
    hidden, weight, targets = make_inputs()
    sum(token_logprobs(hidden[:0], weight, targets[:0])).sum().backward()
    assert weight.grad.shape == weight.shape
    assert not weight.grad.any()


@pytest.mark.parametrize(("vocabulary", "tile"), [(300, (1_747, 300)), (151_936, (512, 1_024))])
def test_tiles_are_as_wide_as_products_need(vocabulary, tile):
    assert logprobs._tile(vocabulary, "cpu") == tile


def test_no_more_than_a_tile_of_logits_exists(monkeypatch):
    sizes = []
    product = logprobs._product

    def spy(left, right, real):
        result = product(left, right, real)
        if left.shape[1] == 6 and result.shape[1] != 6:
            sizes.append(tuple(result.shape))
        return result

    monkeypatch.setattr(logprobs, "_product", spy)
    hidden, weight, targets = make_inputs()
    token_logprobs(hidden, weight, targets, tile=Tile(4, 5))[0].sum().backward()
    assert max(rows for rows, _ in sizes) == 4
    assert max(words for _, words in sizes) == 5
    assert sum(rows * words for rows, words in sizes) == 2 * 23 * 11


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    logp, entropy = token_logprobs(hidden, weight, torch.tensor([0, 0, 2]), tile=Tile(2, 1))
    (logp.sum() + entropy.sum()).backward()
    assert logp.tolist() == pytest.approx([0.0, -2e4, -1.0986123])
    assert entropy.tolist() == pytest.approx([0.0, 0.0, 1.0986123])
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_bfloat16_products_lose_nothing_on_the_way():
    """What is multiplied as bfloat16 was bfloat16 before; sums are of float32."""
    hidden, weight, targets = make_inputs(tokens=64, width=256, vocabulary=64, dtype=torch.bfloat16)
    before = torch.backends.mkldnn.matmul.fp32_precision
    product = logprobs._product(hidden, weight.T, torch.float32)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert product.dtype == torch.float32
    torch.testing.assert_close(
        product.double(), hidden.double() @ weight.double().T, atol=2e-4, rtol=1e-5
    )
    upstream = torch.randn(64)
    result = token_logprobs(hidden, weight, targets, tile=Tile(32, 16))[0]
    exact = naive(hidden.double(), weight.double(), targets, 1.0)[0]
    for leaf in (hidden, weight):
        (slope,) = torch.autograd.grad(result, leaf, upstream, retain_graph=True)
        (expected,) = torch.autograd.grad(exact, leaf, upstream.double(), retain_graph=True)
        error = (slope.double() - expected).norm() / expected.norm()
        assert error < 4e-3  # half a bfloat16 ulp is 2e-3
