"""What the real learner does with batches that it cannot train on, under every ZeRO stage."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from random_groups import VOCABULARY, trajectory
from test_learner import _config

from wfr.config import TinyModelConfig
from wfr.schema import from_batch, to_batch
from wfr.soundness import BatchRefusedError
from wfr.trajectory import Group

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

RANKS = 2
POISON = VOCABULARY - 1


def _groups(seed, version=0):
    """Four groups of four whose tokens are all sampled under `version`; none holds POISON."""
    rng = np.random.default_rng(seed)
    groups = []
    for index in range(4):
        rows = [trajectory(index, sibling, rng, version) for sibling in range(4)]
        rows = [dataclasses.replace(row, tokens=row.tokens % POISON) for row in rows]
        groups.append(Group(str(index), f"task-{index}", version, rows))
    return groups


def _poisoned(groups, group, sibling):
    """The first token of the second turn makes the policy's log-probability NaN."""
    row = groups[group].trajectories[sibling]
    row.tokens[row.turns[1].start] = POISON
    return groups


def _unsound(groups, group, sibling):
    groups[group].trajectories[sibling].behaviour_logprob[
        groups[group].trajectories[sibling].turns[1].start
    ] = np.nan
    return groups


def _even(groups):
    for row in (row for group in groups for row in group.trajectories):
        row.reward = 1.0
    return groups


def _scripts():
    """(name, sections of the configuration, the batches of each step with their versions)."""
    one = {"learner": {"minibatches": 1}}
    for stage in range(4):
        steps = [(0, _groups(0)), (1, _poisoned(_groups(1), 2, 3)), (1, _unsound(_groups(2), 1, 0))]
        yield f"stage {stage}", {"stage": stage, **one}, steps
    rest = [group for group in _groups(2) if group.group_id != "1"]
    yield "clean", one, [(0, _groups(0)), (1, rest)]
    stale = [(0, _groups(0)), (1, _groups(1, version=0)), (1, _groups(2, version=1))]
    yield "masked", {"objective": {"max_turn_lag": 0}, **one}, stale
    yield "even", {"objective": {"zero_variance": "drop"}, **one}, [(0, _even(_groups(0)))]
    yield "half", {}, [(0, _poisoned(_groups(0), 3, 1))]
    for name in ("skipping", "thorough"):
        yield name, {}, [(version, _groups(version, version)) for version in range(3)]
    for name, tokens in (("many", 96), ("few", 2048)):
        learner = {"minibatches": 1, "max_tokens": tokens}
        objective = {"preset": "m2po", "m2_budget": 0.2}
        yield name, {"learner": learner, "objective": objective}, [(0, _groups(0))]


def _step(learner, version, groups):
    """The metrics, or the refusals."""
    try:
        return learner.step(version, *map(to_batch, groups))
    except BatchRefusedError as error:
        return [dataclasses.asdict(refusal) for refusal in error.refusals]


def _life(rank, director, port, out):
    """One rank plays every script; DeepSpeed can open a process group once per process only."""
    import learner.learner as module

    class Learner(module.Learner):
        thorough = False

        def _forward(self, batch):
            logp, entropy = super()._forward(batch)
            return logp.masked_fill(batch.input_ids == POISON, float("nan")), entropy

        def _proximal(self, shares):
            if self.thorough:  # every minibatch is scored, needed or not
                return [self._score(self._mine(rows)) for rows in shares]
            return super()._proximal(shares)

    for name, sections, steps in _scripts():
        aside = []
        learner = Learner(
            _config(RANKS, **sections),
            director,
            rank=rank,
            init_method=f"tcp://127.0.0.1:{port}",
            set_aside=lambda batch, aside=aside: aside.append(from_batch(batch).group_id),
        )
        learner.thorough = name == "thorough"
        notes = []
        for version, groups in steps:
            notes.append(_step(learner, version, groups))
            learner.save(f"{out}/{name}/{len(notes)}", {})
        torch.save((notes, aside), f"{out}/{name}-{rank}.pt")
        learner._engine._engine.destroy()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """Runs the gang once; gives (notes, groups set aside, weights after each step) by name."""
    from safetensors.torch import load_file

    from cluster.ports import free_port
    from learner.tiny import build_model

    out = tmp_path_factory.mktemp("lives")
    shape = TinyModelConfig(layers=2, hidden=32, intermediate=64, heads=2)
    build_model(shape, VOCABULARY, 1).save_pretrained(out / "director")
    arguments = (str(out / "director"), free_port(), str(out))
    torch.multiprocessing.spawn(_life, arguments, nprocs=RANKS)

    def life(name):
        notes, aside = torch.load(out / f"{name}-0.pt")
        others, nothing = torch.load(out / f"{name}-1.pt")
        assert nothing == []  # rank 0 alone sets aside
        assert [n for n in others if isinstance(n, list)] == [
            n for n in notes if isinstance(n, list)
        ]
        weights = [load_file(out / name / f"{i + 1}/model.safetensors") for i in range(len(notes))]
        return notes, aside, weights

    return life


def _same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("stage", range(4))
def test_a_step_that_is_not_finite_is_thrown_away_on_every_rank(lives, stage):
    (first, refused, _), aside, weights = lives(f"stage {stage}")
    assert np.isfinite(first["learner/grad_norm"])
    assert [r["group_id"] for r in refused] == ["0", "1", "2", "3"]
    assert {r["reason"] for r in refused} == {"not_finite"}
    assert refused[0]["detail"].startswith("trajectory 2/3, turn 1: logp is nan at token")
    assert _same(weights[0], weights[1])
    assert not _same(weights[1], weights[2])
    assert aside == ["0", "1", "2", "3", "1"]


@pytest.mark.parametrize("stage", range(4))
def test_a_group_with_damaged_records_is_left_out_and_named(lives, stage):
    (_, _, metrics), _, weights = lives(f"stage {stage}")
    (refusal,) = metrics["refused"]
    assert (refusal["group_id"], refusal["reason"]) == ("1", "invalid")
    assert refusal["detail"].startswith("trajectory 1/0, turn 1: behaviour_logprob is nan")
    assert metrics["batch/rows"] == 12
    # Neither the group nor the refused step before it left a trace in weights or moments.
    _, _, clean = lives("clean")
    for name, tensor in clean[1].items():
        torch.testing.assert_close(weights[2][name], tensor, atol=2e-5, rtol=2e-5)
    if stage == 1:
        assert _same(weights[2], clean[1])


def test_a_batch_of_masked_turns_moves_nothing(lives):
    (_, refused, third), aside, weights = lives("masked")
    assert {(r["reason"], r["detail"]) for r in refused} == {
        ("masked", "every policy token is masked")
    }
    assert _same(weights[0], weights[1])
    assert not _same(weights[1], weights[2])
    assert (third["masked_fraction"], aside) == (0.0, ["0", "1", "2", "3"])


def test_a_batch_of_equal_rewards_is_no_step_where_they_are_dropped(lives):
    (refused,), aside, _ = lives("even")
    assert {r["reason"] for r in refused} == {"zero_variance"}
    assert len(refused) == len(aside) == 4


def test_the_other_minibatch_is_trained_on(lives):
    (metrics,), aside, _ = lives("half")
    assert [r["group_id"] for r in metrics["refused"]] == aside == ["2", "3"]
    assert metrics["refused"][0]["detail"].startswith("trajectory 3/1, turn 1: logp is nan")


def test_the_proximal_pass_that_is_skipped_would_change_nothing(lives):
    """During the first minibatch θ is the proximal policy; the second is scored anyway."""
    skipped, _, weights = lives("skipping")
    scored, _, expected = lives("thorough")
    for left, right in zip(weights, expected, strict=True):
        assert _same(left, right)
    for left, right in zip(skipped, scored, strict=True):
        times = {"learner/step_seconds", "learner/phase_seconds"}
        assert {k: v for k, v in left.items() if k not in times} == {
            k: v for k, v in right.items() if k not in times
        }
    assert skipped[0]["kl_proximal"] > 0  # of the second minibatch: the pass matters there


def test_the_cut_of_m2po_is_one_of_the_whole_step(lives):
    """However the rows are dealt, the same tokens are dropped."""
    (many,), _, weights = lives("many")
    (few,), _, expected = lives("few")
    assert 0 < many["clip_fraction_low"] + many["clip_fraction_high"] < 1
    for key in ("clip_fraction_low", "clip_fraction_high", "ratio"):
        assert many[key] == pytest.approx(few[key], rel=1e-5)
    for name, tensor in expected[0].items():
        torch.testing.assert_close(weights[0][name], tensor, atol=2e-5, rtol=2e-5)
