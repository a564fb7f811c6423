"""The policy on packed micro-batches against separate sequences; attention never crosses."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner import attention as packed_attention
from learner.attention import Blocks, check_attention
from learner.objectives import policy_loss
from learner.packing import Row, denominators, pack
from learner.policy import Policy, ScoringHead

LENGTHS = (5, 1, 12, 9, 2)


def build(kv_heads=2, tied=True):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        initializer_range=0.4,
        attn_implementation="sdpa",
    )
    return Qwen2ForCausalLM(config).double()


def make_rows(lengths=LENGTHS, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for index, length in enumerate(lengths):
        turn_id = np.arange(length) // 3 - 1
        zeros = np.zeros(length)
        tokens = generator.integers(0, 31, length)
        lag = zeros.astype(int)
        rows.append(Row(f"g/{index}", tokens, turn_id, zeros, lag, turn_id, index - 1.5))
    return rows


def score(policy, rows):
    batch = pack(rows)
    return policy(batch.input_ids, batch.position_ids, batch.turn_id), batch


@pytest.fixture(autouse=True)
def varlen(monkeypatch):
    """Flash attention by its definition, where there is no GPU: each span of the bounds alone."""

    def attend(query, key, value, bounds, key_bounds, longest, longest_key, **settings):
        assert bounds is key_bounds
        assert bounds.dtype == torch.int32
        assert longest == longest_key == bounds.diff().max()
        assert settings.pop("window_size") == (-1, 0)
        assert settings.pop("enable_gqa", False) is (query.shape[1] != key.shape[1])
        scale = settings.pop("scale")
        assert not settings
        results = []
        for start, end in itertools.pairwise(bounds.tolist()):
            span = [part[start:end].transpose(0, 1) for part in (query, key, value)]
            repeats = len(span[0]) // len(span[1])
            span[1:] = (part.repeat_interleave(repeats, 0) for part in span[1:])
            mask = torch.ones(end - start, end - start).tril().log()
            shares = (span[0] @ span[1].transpose(1, 2) * scale + mask).softmax(-1)
            results.append((shares @ span[2]).transpose(0, 1))
        return torch.cat(results)

    monkeypatch.setattr(packed_attention, "varlen_attn", attend)


def separately(model, row, temperature):
    """Log-probabilities and entropies of one row from plain logits, in float64."""
    tokens = torch.from_numpy(row.tokens)
    logits = model(tokens[None], use_cache=False).logits[0] / temperature
    table = torch.cat([torch.zeros_like(logits[:1]), torch.log_softmax(logits[:-1], -1)])
    written = torch.from_numpy(row.turn_id >= 0)
    logp = table.gather(1, tokens[:, None])[:, 0]
    entropy = -(table.exp() * table).sum(1)
    return torch.where(written, logp, 0), torch.where(written, entropy, 0)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_packed_rows_score_as_separate_sequences(attention, kv_heads):
    rows, plain = make_rows(), build(kv_heads)
    expected = [torch.cat(p) for p in zip(*(separately(plain, r, 0.7) for r in rows), strict=True)]
    policy = Policy(build(kv_heads), temperature=0.7, attention=attention)
    result, _ = score(policy, rows)
    # The model's norms compute in float32 whatever its weights, so this is as close as it gets.
    torch.testing.assert_close(list(result), expected, atol=1e-5, rtol=0)


def with_contexts(row):
    """The row in three contexts, each of which begins with a token that is not the policy's."""
    starts = (0, 4, 9)
    turn_id = row.turn_id.copy()
    turn_id[list(starts)] = -1
    return dataclasses.replace(row, turn_id=turn_id, contexts=starts)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
def test_contexts_score_as_separate_sequences_and_never_reach_each_other(attention):
    rows = make_rows()
    rows[2] = with_contexts(rows[2])
    plain, policy = build(), Policy(build(), attention=attention)
    parts = []
    for row in rows:
        for start, end in itertools.pairwise([*row.contexts, len(row)]):
            piece = dataclasses.replace(
                row, tokens=row.tokens[start:end], turn_id=row.turn_id[start:end]
            )
            parts.append(separately(plain, piece, 1.0))
    expected = [torch.cat(column) for column in zip(*parts, strict=True)]
    result, batch = score(policy, rows)
    torch.testing.assert_close(list(result), expected, atol=1e-5, rtol=0)

    first = rows[2].contexts[1]
    rows[2].tokens[:first] = (rows[2].tokens[:first] + 1) % 31
    changed, _ = score(policy, rows)
    inside = torch.nonzero(batch.row_id == 2)[:, 0]
    assert torch.equal(changed[0][inside[first:]], result[0][inside[first:]])
    assert not torch.equal(changed[0][inside[:first]], result[0][inside[:first]])


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
def test_one_trajectory_never_reaches_another(attention):
    policy, rows = Policy(build(), attention=attention), make_rows()
    changed = make_rows()
    changed[2].tokens[:] = (changed[2].tokens + 1) % 31
    before, batch = score(policy, rows)
    after, _ = score(policy, changed)
    others = batch.row_id != 2
    assert torch.equal(before[0][others], after[0][others])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("tied", [True, False])
def test_packing_never_changes_loss_or_gradient(tied):
    """Whole optimizer step: one packed micro-batch, or one trajectory each, in any order."""
    rows = [row for row in make_rows() if len(row) > 3]
    whole = step_gradient(Policy(build(tied=tied)), [rows])
    split = step_gradient(Policy(build(tied=tied), attention="eager"), [[r] for r in rows[::-1]])
    assert whole[0] == pytest.approx(split[0], abs=1e-6)
    torch.testing.assert_close(whole[1], split[1], atol=1e-6, rtol=1e-6)


def step_gradient(policy, micro_batches):
    total = 0.0
    counts = denominators(row for rows in micro_batches for row in rows)
    for rows in micro_batches:
        (logp, _), batch = score(policy, rows)
        loss = policy_loss(
            logp=logp,
            proximal_logp=logp.detach() - 0.05 * batch.position_ids.cos(),
            behaviour_logp=logp.detach(),
            advantage=batch.advantage,
            turn_id=batch.turn_id,
            row_id=batch.row_id,
            config={"preset": "gsspo", "kl_coef": 0.0},
            denominators=counts,
        ).loss
        loss.backward()
        total += loss.item()
    return total, {name: p.grad for name, p in policy.named_parameters()}


def test_a_micro_batch_without_policy_tokens_can_be_differentiated():
    policy = Policy(build())
    (logp, _), _ = score(policy, [])
    logp.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in policy.parameters())


def test_blocks_hold_every_token_once():
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    blocks = Blocks.of(positions)
    flat = torch.cat([source.flatten() for source in blocks.sources])
    assert torch.equal(flat[blocks.places], torch.arange(len(positions)))
    assert sorted(source.shape[1] for source in blocks.sources) == [1, 2, 5, 12]


def test_checkpoint_names_and_tied_weights_survive():
    policy, fresh = Policy(build(), attention="eager"), build()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    assert policy.model.lm_head.weight is policy.model.model.embed_tokens.weight
    fresh.load_state_dict(policy.model.state_dict())
    rows = make_rows()
    expected = torch.cat([separately(fresh, row, 1.0)[0] for row in rows])
    torch.testing.assert_close(score(policy, rows)[0][0], expected, atol=1e-5, rtol=0)


def test_refuses_what_packed_attention_cannot_do():
    policy = Policy(build())
    with pytest.raises(ValueError, match="layout of the micro-batch"):
        policy.model(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="bias"):
        ScoringHead(torch.nn.Linear(2, 2))


def test_flash_is_refused_where_it_cannot_run(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for kind in ("sdpa", "eager"):
        check_attention(kind, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match=r"'flash' needs .* device is cpu; set .* 'sdpa'"):
        check_attention("flash", torch.device("cpu"), torch.bfloat16)
    with pytest.raises(ValueError, match=r"compute capability 7\.5"):
        check_attention("flash", gpu, torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(ValueError, match=r"dtype is float32"):
        check_attention("flash", gpu, torch.float32)
    check_attention("flash", gpu, torch.bfloat16)
