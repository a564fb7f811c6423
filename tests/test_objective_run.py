"""A tiny training run: what must not change what is learnt, and what must."""

import itertools

import pytest
import torch

from learner.aggregation import Denominators
from learner.objectives import policy_loss
from learner.segments import Layout

WORDS, STEPS, RATE = 5, 12, 4.0
TURNS = ([3, 7], [1, 2, 9], [4])  # tokens per turn of each row
ADVANTAGES = torch.tensor([1.5, -1.0, 0.7], dtype=torch.float64)


def rows():
    """Flat columns of every row: turn of each token, and its word."""
    generator = torch.Generator().manual_seed(5)
    for lengths in TURNS:
        turn = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        yield turn, torch.randint(WORDS, (len(turn),), generator=generator)


def train(config, *, parts=((0, 1, 2),), local=False):
    """Change of a policy's logits, [tokens, words], when trained in micro-batches of these rows.

    The proximal policy is the one before the first of every three steps, so that ratios matter.
    """
    data = list(rows())
    sizes = [len(turn) for turn, _ in data]
    offsets = list(itertools.accumulate([0, *sizes]))
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(offsets[-1], WORDS, generator=generator, dtype=torch.float64)
    logits = start.clone().requires_grad_()
    whole = Denominators(sum(sizes), len(sizes))
    for step in range(STEPS):
        if step % 3 == 0:
            proximal = logits.detach().log_softmax(1)
        for part in parts:
            place = torch.cat([torch.arange(offsets[r], offsets[r + 1]) for r in part])
            word = torch.cat([data[r][1] for r in part])[:, None]
            turn_id = torch.cat([data[r][0] for r in part])
            row_id = torch.arange(len(part)).repeat_interleave(
                torch.tensor([sizes[r] for r in part])
            )
            old = proximal[place].gather(1, word)[:, 0]
            own = Denominators.of(Layout.of(turn_id, row_id))
            loss = policy_loss(
                logp=logits[place].log_softmax(1).gather(1, word)[:, 0],
                proximal_logp=old,
                behaviour_logp=old,
                advantage=ADVANTAGES[list(part)],
                turn_id=turn_id,
                row_id=row_id,
                config=config,
                denominators=own if local else whole,
            ).loss
            (loss / len(parts) if local else loss).backward()
        with torch.no_grad():
            logits -= RATE * logits.grad
            logits.grad = None
    return (logits - start).detach()


PRESETS = ("gsspo", "grpo", "gspo", "dapo", "cwrpo", "reinforce", "cispo", "dppo_tv", "vespo")


@pytest.mark.parametrize("preset", PRESETS)
def test_micro_batches_and_their_order_learn_the_same(preset):
    config = {"preset": preset, "kl_coef": 0.0}
    whole = train(config)
    assert not torch.allclose(whole, torch.zeros_like(whole), atol=1e-2)
    for parts in (((0,), (1,), (2,)), ((2, 0), (1,)), ((2, 1, 0),)):
        torch.testing.assert_close(train(config, parts=parts), whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize("preset", ["gsspo", "dapo"])
def test_denominators_of_a_micro_batch_learn_something_else(preset):
    config = {"preset": preset, "kl_coef": 0.0}
    wrong = train(config, parts=((0, 1), (2,)), local=True)
    assert (wrong - train(config)).abs().max() > 0.05


def test_every_unit_and_every_aggregate_learn_something_else():
    base = {"kl_coef": 0.0, "clip_low": 0.2, "clip_high": 0.2}
    learnt = {}
    for unit in ("token", "subsequence", "sequence"):
        for aggregate in ("token_mean", "sequence_mean", "subsequence_mean"):
            learnt[unit, aggregate] = train({**base, "ratio_unit": unit, "aggregate": aggregate})
    # One ratio for a whole row averages to the same over its tokens and over its turns.
    same = learnt.pop(("sequence", "subsequence_mean"))
    torch.testing.assert_close(same, learnt["sequence", "sequence_mean"], atol=1e-9, rtol=0)
    for (one, left), (two, right) in itertools.combinations(learnt.items(), 2):
        assert (left - right).abs().max() > 1e-2, (one, two)
