"""Chunked log-probabilities against all logits at once."""

import pytest
import torch

from learner import logprobs
from learner.logprobs import token_logprobs


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
@pytest.mark.parametrize("chunk", [1, 5, 23, 100, None])
def test_values_and_gradients_equal_the_naive_way(temperature, chunk):
    hidden, weight, targets = make_inputs()
    upstream = torch.randn(2, len(targets), dtype=torch.float64)
    expected = naive(hidden, weight, targets, temperature)
    slopes = torch.autograd.grad(expected, (hidden, weight), tuple(upstream))
    result = token_logprobs(hidden, weight, targets, temperature=temperature, chunk=chunk)
    chunked = torch.autograd.grad(result, (hidden, weight), tuple(upstream))
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(chunked, slopes, atol=1e-12, rtol=0)


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_of_one_output_alone(output):
    hidden, weight, targets = make_inputs()
    (expected,) = torch.autograd.grad(naive(hidden, weight, targets, 1.0)[output].sum(), hidden)
    result = token_logprobs(hidden, weight, targets, chunk=4)[output].sum()
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
    result = token_logprobs(hidden, weight, targets, chunk=7)
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


def test_no_more_than_a_chunk_of_logits_exists(monkeypatch):
    rows = []
    product = logprobs._product

    def spy(left, right, real):
        result = product(left, right, real)
        if result.shape[1] == 11:
            rows.append(len(result))
        return result

    monkeypatch.setattr(logprobs, "_product", spy)
    hidden, weight, targets = make_inputs()
    token_logprobs(hidden, weight, targets, chunk=4)[0].sum().backward()
    assert max(rows) == 4
    assert sum(rows) == 2 * 23
