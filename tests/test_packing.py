"""Packing: nothing lost, nothing twice, nothing over the limit, loads level."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.packing import Row, denominators, pack, plan
from wfr.trajectory import StopReason, Trajectory, Turn, TurnKind, VersionSpan


def make_row(length, name="g/0", advantage=1.0):
    turn_id = np.full(length, -1)
    turn_id[1:] = 0
    zeros = np.zeros(length)
    return Row(name, np.arange(length), turn_id, zeros, zeros.astype(int), turn_id, advantage)


def make_trajectory():
    """Prompt of 2, turn of 2 under versions 3 and 4, observation of 1, turn of 1, observation."""
    turns = [Turn(2, 4, 5, TurnKind.TOOL, "stop"), Turn(5, 6, 7, TurnKind.TOOL, "stop")]
    return Trajectory(
        run_id="run",
        task_id="task",
        group_id="g7",
        sibling=2,
        tokens=np.arange(10, 17, dtype=np.int32),
        turn_id=np.array([-1, -1, 0, 0, -1, 1, -1], np.int16),
        behaviour_logprob=np.array([0, 0, -1, -2, 0, -3, 0], np.float32),
        version_spans=[VersionSpan(2, 3, 3), VersionSpan(3, 4, 4), VersionSpan(5, 6, 4)],
        turns=turns,
        messages=[],
        stop_reason=StopReason.OUT_OF_TURNS,
    )


def test_row_reads_a_trajectory_up_to_its_last_policy_token():
    row = Row.of(make_trajectory(), advantage=0.5, version=6)
    assert row.name == "g7/2"
    assert row.tokens.tolist() == [10, 11, 12, 13, 14, 15]
    assert row.turn_id.tolist() == [-1, -1, 0, 0, -1, 1]
    assert row.turn_lag.tolist() == [0, 0, 3, 3, 0, 2]
    assert row.version.tolist() == [-1, -1, 3, 4, -1, 4]
    assert row.behaviour_logp.tolist() == [0, 0, -1, -2, 0, -3]


def test_positions_restart_with_every_context_and_rows_stay_whole():
    trajectory = make_trajectory()
    trajectory.turns[1] = dataclasses.replace(trajectory.turns[1], context=4)
    row = Row.of(trajectory, advantage=0.5, version=6)
    assert (row.contexts, row.context_lengths.tolist()) == ((0, 4), [4, 2])
    batch = pack([make_row(2), row])
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2, 3, 0, 1]
    assert batch.row_id.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert batch.turn_id.tolist() == [-1, 0, -1, -1, 0, 0, -1, 1]
    counts = denominators([row])
    assert (counts.policy_tokens, counts.rows) == (3, 1)


def test_row_refuses_a_context_that_begins_with_a_policy_token():
    trajectory = make_trajectory()
    trajectory.turns[1] = dataclasses.replace(trajectory.turns[1], context=5)
    with pytest.raises(ValueError, match=r"g7/2: a context begins with a policy token: \(0, 5\)"):
        Row.of(trajectory, advantage=0.5, version=6)


def test_row_refuses_a_trajectory_from_the_future():
    with pytest.raises(ValueError, match="g7/2: sampled after version 3"):
        Row.of(make_trajectory(), advantage=0.5, version=3)


@pytest.mark.parametrize("turn_id", [[-1] * 7, [0, -1, -1, -1, -1, -1, -1]])
def test_row_refuses_a_trajectory_without_prompt_or_policy_token(turn_id):
    trajectory = make_trajectory()
    trajectory.turn_id = np.array(turn_id, np.int16)
    with pytest.raises(ValueError, match="g7/2: policy tokens must exist and follow a prompt"):
        Row.of(trajectory, advantage=0.5, version=6)


def test_pack_lays_rows_one_after_the_other():
    batch = pack([make_row(3, advantage=0.5), make_row(2, advantage=-1.0)])
    assert batch.input_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.turn_id.tolist() == [-1, 0, 0, -1, 0]
    assert batch.row_id.tolist() == [0, 0, 0, 1, 1]
    assert batch.advantage.tolist() == [0.5, -1.0]
    assert batch.behaviour_logp.dtype == torch.float32
    assert len(batch.to("cpu")) == 5


def test_packing_nothing_gives_one_token_that_counts_nowhere():
    batch = pack([])
    assert len(batch) == 1
    assert batch.turn_id.tolist() == [-1]


def test_denominators_count_policy_tokens_and_rows():
    counts = denominators([make_row(3), make_row(5)])
    assert (counts.policy_tokens, counts.rows) == (6, 2)


LENGTHS = st.lists(st.integers(2, 60), max_size=40)


@settings(max_examples=80, deadline=None)
@given(lengths=LENGTHS, ranks=st.integers(1, 4), max_tokens=st.integers(60, 200))
def test_plan_uses_every_row_once_within_the_limit(lengths, ranks, max_tokens):
    rows = [make_row(length) for length in lengths]
    shares = plan(rows, ranks=ranks, max_tokens=max_tokens)
    bins = [content for share in shares for content in share]
    assert sorted(index for content in bins for index in content) == list(range(len(rows)))
    assert all(sum(lengths[i] for i in content) <= max_tokens for content in bins)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    assert shares == plan(rows, ranks=ranks, max_tokens=max_tokens)


def test_plan_levels_the_cost_of_long_tails():
    lengths = np.random.default_rng(0).pareto(1.5, 256) * 60 + 20
    rows = [make_row(min(int(length), 1000)) for length in lengths]
    shares = plan(rows, ranks=4, max_tokens=2048, quadratic_length=500)
    cost = np.array([len(row) + len(row) ** 2 / 500 for row in rows])
    steps = np.array([[cost[content].sum() for content in share] for share in shares])
    slowest = steps.max(0).sum()  # ranks wait for each other at every step
    assert slowest < 1.03 * cost.sum() / 4
    assert steps.sum(1).max() < 1.01 * cost.sum() / 4


def test_plan_needs_no_more_micro_batches_than_fit():
    rows = [make_row(50) for _ in range(8)]
    assert [len(share) for share in plan(rows, ranks=2, max_tokens=100)] == [2, 2]


def test_plan_names_the_row_that_is_too_long():
    rows = [make_row(3), make_row(11, name="g9/4")]
    with pytest.raises(ValueError, match=r"g9/4 has 11 tokens.*max_tokens=10"):
        plan(rows, ranks=1, max_tokens=10)
