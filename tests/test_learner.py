"""The learner under DeepSpeed: ZeRO stages, ranks and micro-batches never change what is learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wfr.advantage import advantages
from wfr.config import TinyModelConfig, parse_config
from wfr.schema import from_batch, to_batch
from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

VOCABULARY = 300


def _trajectory(group, sibling, rng, version=0):
    """A prompt, a turn, an observation and a second turn, of random lengths."""
    lengths = rng.integers(3, 20, 4)
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    total = edges[-1]
    turn_id = np.full(total, -1, np.int16)
    turn_id[edges[1] : edges[2]] = 0
    turn_id[edges[3] : edges[4]] = 1
    policy = turn_id >= 0
    return Trajectory(
        run_id="run",
        task_id=f"task-{group}",
        group_id=str(group),
        sibling=sibling,
        tokens=rng.integers(0, VOCABULARY, total).astype(np.int32),
        turn_id=turn_id,
        behaviour_logprob=np.where(policy, -5.0 - rng.random(total), 0.0).astype(np.float32),
        version_spans=[VersionSpan(edges[i], edges[i + 1], version) for i in (1, 3)],
        turns=[
            Turn(edges[1], edges[2], edges[3], TurnKind.TOOL, "stop", "Search"),
            Turn(edges[3], edges[4], edges[4], TurnKind.ANSWER, "stop"),
        ],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=float(rng.integers(0, 2)) + 0.1 * sibling,
    )


def _batches(seed, version=0):
    rng = np.random.default_rng(seed)
    return [
        to_batch(Group(str(g), f"task-{g}", version, [_trajectory(g, s, rng) for s in range(4)]))
        for g in range(4)
    ]


def _config(ranks=1, stage=1, **sections):
    learner = {
        "ranks": ranks,
        "zero_stage": stage,
        "lr": 1e-3,
        "max_tokens": 128,
        "minibatches": 2,
        **sections.pop("learner", {}),
    }
    return parse_config({"model": {"max_length": 96}, "learner": learner, **sections})


def _train(rank, config, director, port, out, steps=2):
    """One rank's life: it trains `steps` batches and rank 0 keeps weights and metrics."""
    from learner.learner import Learner

    learner = Learner(config, director, rank=rank, init_method=f"tcp://127.0.0.1:{port}")
    metrics = [learner.step(version, *_batches(version)) for version in range(steps)]
    learner.save(f"{out}/checkpoint", {})
    if rank == 0:
        torch.save(metrics, f"{out}/metrics.pt")
    learner.close()


@pytest.fixture(scope="module")
def director(tmp_path_factory):
    """A tiny random director."""
    from learner.tiny import build_model

    path = tmp_path_factory.mktemp("director")
    shape = TinyModelConfig(layers=2, hidden=32, intermediate=64, heads=2)
    build_model(shape, VOCABULARY, 1).save_pretrained(path)
    return str(path)


def _run(config, director, out):
    """Train in as many processes as there are ranks; returns (weights, metrics of each step)."""
    from safetensors.torch import load_file

    from cluster.ports import free_port

    out.mkdir()
    torch.multiprocessing.spawn(
        _train, (config, director, free_port(), str(out)), nprocs=config.learner.ranks
    )
    weights = load_file(out / "checkpoint" / "model.safetensors")
    return weights, torch.load(out / "metrics.pt")


@pytest.fixture(scope="module")
def one_rank(director, tmp_path_factory):
    """What one rank under ZeRO-1 learns."""
    return _run(_config(), director, tmp_path_factory.mktemp("one") / "run")


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 1), (2, 2), (2, 3)])
def test_stages_and_ranks_learn_the_same(one_rank, director, tmp_path, ranks, stage):
    weights, metrics = _run(_config(ranks, stage), director, tmp_path / "run")
    expected, expected_metrics = one_rank
    for name, tensor in expected.items():
        # Adam divides by a gradient's own size, so rounding of a gradient near 0 moves its weight
        # by a visible share of a step (1e-3): 2 % of one step is allowed.
        torch.testing.assert_close(weights[name], tensor, atol=2e-5, rtol=2e-5)
    for key in ("learner/grad_norm", "ratio", "entropy", "kl_behaviour", "reward/mean"):
        got = [step[key] for step in metrics]
        assert got == pytest.approx([step[key] for step in expected_metrics], rel=1e-4), key


def test_training_changed_the_weights(one_rank, director):
    from safetensors.torch import load_file

    before = load_file(f"{director}/model.safetensors")
    moved = max((one_rank[0][name] - before[name]).abs().max().item() for name in before)
    assert 1e-4 < moved < 1e-1


def test_objective_reaches_the_learner(director, tmp_path):
    """A-3PO at lag 0 is centred on μ, not on θ; `batch` compares all groups with each other."""
    config = _config(objective={"preset": "a3po", "advantage": "batch"}, learner={"minibatches": 1})
    _, metrics = _run(config, director, tmp_path / "run")
    groups = [from_batch(batch) for batch in _batches(0)]
    values = np.concatenate([part.values for part in advantages(groups, "batch")])
    assert metrics[0]["advantage_max"] == pytest.approx(values.max(), rel=1e-5)
    assert metrics[0]["advantage_min"] == pytest.approx(values.min(), rel=1e-5)
    assert metrics[0]["ratio_max"] > 1.01
    assert metrics[0]["correction_max"] == 1


def _refusals(rank, config, director, port, out):
    """What the learner refuses, as texts."""
    from learner.learner import Learner

    learner = Learner(config, director, rank=rank, init_method=f"tcp://127.0.0.1:{port}")
    texts = []
    for version in (3, 0, 1, 2):
        try:
            learner.step(version, *_batches(version))
            texts.append("")
        except ValueError as error:
            texts.append(str(error))
    torch.save(texts, f"{out}/texts.pt")
    learner.close()


def test_a_wrong_version_and_a_broken_lag_bound_are_refused(director, tmp_path):
    from cluster.ports import free_port

    config = _config(buffer={"max_lag": 1})
    torch.multiprocessing.spawn(_refusals, (config, director, free_port(), str(tmp_path)), nprocs=1)
    wrong, first, second, stale = torch.load(tmp_path / "texts.pt")
    assert "asked to train version 3, but holds 0" in wrong
    assert first == second == ""
    assert "lag above max_lag=1 at version 2" in stale
