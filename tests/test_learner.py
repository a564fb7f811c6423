"""The learner under DeepSpeed: ZeRO stages, ranks and micro-batches never change what is learnt."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from random_groups import VOCABULARY, batches

from wfr.advantage import advantages
from wfr.checkpoint_directory import begin, unfinished
from wfr.config import TinyModelConfig, parse_config
from wfr.learner_config import LogprobsConfig
from wfr.schema import from_batch, to_batch
from wfr.trained_logprobs import TrainedLogprobs, trained_logprobs
from wfr.trajectory import VersionSpan

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

STEPS, SMALL = 5, 3e-4
EVERY_STEP = {"mib": 16, "every": 1}


def _config(ranks=1, stage=1, **sections):
    learner = {
        "ranks": ranks,
        "zero_stage": stage,
        "lr": 1e-3,
        "max_tokens": 256,
        "minibatches": 2,
        **sections.pop("learner", {}),
    }
    return parse_config({"model": {"max_length": 96}, "learner": learner, **sections})


def _train(rank, config, director, port, out, steps=2):
    """One rank's life: it trains `steps` batches and rank 0 keeps weights and metrics."""
    from learner.learner import Learner

    learner = Learner(config, director, rank=rank, init_method=f"tcp://127.0.0.1:{port}")
    metrics = [learner.step(version, *batches(version)) for version in range(steps)]
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


def _case(name, *, objective=None, **learner):
    """A configuration of the matrix; `ranks` is filled in by the gang that runs it."""
    return name, {"objective": objective or {}, "learner": learner}


def _matrix():
    """ZeRO stages × CPU offload × checkpointing, and whatever else must not change learning."""
    for stage in range(4):
        for offload in (False, True)[: 1 + (stage > 0)]:
            for checkpointing in (False, True):
                yield _case(
                    f"full/zero {stage}{', offload' * offload}{', checkpoints' * checkpointing}",
                    zero_stage=stage,
                    offload_optimizer=offload,
                    offload_parameters=offload and stage == 3,
                    gradient_checkpointing=checkpointing,
                )
        for everything in (False, True):
            yield _case(
                f"lora/zero {stage}{', offload, checkpoints' * everything}",
                objective={"kl_coef": 0.1},
                zero_stage=stage,
                offload_optimizer=everything and stage > 0,
                offload_parameters=everything and stage == 3,
                gradient_checkpointing=everything,
                lora={"rank": 4, "alpha": 8},
            )
        yield _case(f"bfloat16/zero {stage}", zero_stage=stage, dtype="bfloat16")
        if stage in (1, 3):
            yield _case(f"full/zero {stage}, snapshots", zero_stage=stage, snapshots=EVERY_STEP)
    yield _case("full/many micro-batches", max_tokens=96)
    yield _case("full/one micro-batch", max_tokens=2048)
    yield _case("full/no pass is skipped", zero_stage=1)
    yield _case("bfloat16/small steps", zero_stage=2, dtype="bfloat16", lr=SMALL)


def _every_pass(learner, shares):
    """The proximal policy's log-probs of all minibatches; the learner skips those of the first."""
    return [learner._score(learner._mine(rows)) for rows in shares]


def _gang(rank, ranks, cases, director, port, out):
    """One rank's life in a gang that trains every case from the same start, one after another.

    DeepSpeed can open a process group once per process only, so the gang outlives each learner.
    """
    from learner import engine
    from learner.learner import Learner

    # What DeepSpeed does on GPU: bfloat16 weights with float32 masters.
    engine._casts_weights = lambda config, device: config.dtype == "bfloat16"
    for index, (name, sections) in enumerate(cases):
        settings = {"schedule": "cosine", "warmup_steps": 3, **sections["learner"]}
        config = _config(ranks, learner=settings, objective=sections["objective"])
        kept = TrainedLogprobs(Path(out) / f"{index}.kept", rank, LogprobsConfig(every=1))
        method = f"tcp://127.0.0.1:{port}"
        learner = Learner(config, director, rank=rank, init_method=method, logprobs=kept)
        if name == "full/no pass is skipped":
            learner._proximal = functools.partial(_every_pass, learner)
        metrics = [learner.step(version, *batches(version, version)) for version in range(STEPS)]
        learner.save(f"{out}/{index}", {})
        if rank == 0:
            torch.save(metrics, f"{out}/{index}.pt")
        learner._engine._engine.destroy()
    learner.close()


@pytest.fixture(scope="module")
def before(director):
    """The weights that everything starts from."""
    from safetensors.torch import load_file

    return load_file(f"{director}/model.safetensors")


@pytest.fixture(scope="module")
def learnt(director, tmp_path_factory):
    """What every case of the matrix learns on 1 and on 2 ranks: [case][ranks]."""
    from safetensors.torch import load_file

    from cluster.ports import free_port

    cases = list(_matrix())
    results = {name: {} for name, _ in cases}
    for ranks in (1, 2):
        out = tmp_path_factory.mktemp("matrix")
        arguments = (ranks, cases, director, free_port(), str(out))
        torch.multiprocessing.spawn(_gang, arguments, nprocs=ranks)
        for index, (name, _) in enumerate(cases):
            weights = load_file(out / str(index) / "model.safetensors")
            results[name][ranks] = weights, torch.load(out / f"{index}.pt")
            results[name, "kept", ranks] = out / f"{index}.kept"
    return results


TOLERANCES = {"full": 1e-5, "lora": 1e-6}
"""Of weights, absolute. Learning rate 1e-3, ten optimizer steps.

Adam divides by a gradient's own size, so rounding of a gradient near 0 moves its weight by a
visible share of a step: 1 % of one is allowed.
"""


@pytest.mark.parametrize("name", [n for n, _ in _matrix() if not n.startswith("bfloat16")])
def test_what_is_learnt_does_not_depend_on_how(learnt, name):
    family = name.partition("/")[0]
    expected, expected_metrics = learnt[f"{family}/zero 0"][1]
    keys = ("learner/grad_norm", "ratio", "entropy", "kl_behaviour", "policy_loss", "reward/mean")
    keys += ("kl_reference",) * (family == "lora")
    for weights, metrics in learnt[name].values():
        assert weights.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(weights[key], tensor, atol=TOLERANCES[family], rtol=0)
        for key in keys:
            got = [step[key] for step in metrics]
            wanted = [step[key] for step in expected_metrics]
            assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6), key


def _distance(left, right):
    return sum((left[n].float() - right[n].float()).square().sum() for n in right).sqrt().item()


@pytest.mark.parametrize("stage", range(4))
def test_bfloat16_learns_what_float32_does(learnt, before, stage):
    """Weights with 8 bits: the way that was gone differs by less than a quarter of its length."""
    expected, expected_metrics = learnt["full/zero 0"][1]
    for weights, metrics in learnt[f"bfloat16/zero {stage}"].values():
        assert all(tensor.dtype == torch.bfloat16 for tensor in weights.values())
        assert _distance(weights, expected) < 0.25 * _distance(before, expected)
        for key in ("entropy", "kl_behaviour"):
            got = [step[key] for step in metrics]
            assert got == pytest.approx([step[key] for step in expected_metrics], rel=0.05), key


def test_steps_too_small_for_bfloat16_add_up_in_the_masters(learnt, before):
    """Weights in [0.25, 0.5) lie 2⁻⁹ apart: a step of 3e-4 alone would be rounded away."""
    assert SMALL < 2**-10
    for weights, _ in learnt["bfloat16/small steps"].values():
        after, start = (w["model.embed_tokens.weight"].float() for w in (weights, before))
        between = (start.abs() >= 0.25) & (start.abs() < 0.5)
        moved = (after != start.bfloat16())[between]
        assert moved.float().mean() > 0.25


@pytest.mark.parametrize("stage", [1, 3])
def test_looking_back_at_snapshots_leaves_no_trace(learnt, stage):
    for ranks in (1, 2):
        expected, _ = learnt[f"full/zero {stage}"][ranks]
        weights, metrics = learnt[f"full/zero {stage}, snapshots"][ranks]
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        assert "w_mismatch" in metrics[0]


def _plain_logp(model, trajectory):
    """Log-probs of a trajectory's policy tokens, from the definition: float64 [tokens]."""
    tokens = torch.from_numpy(trajectory.tokens.astype(np.int64))
    logits = model(tokens[None]).logits[0].double().log_softmax(-1)
    before = logits[:-1].gather(1, tokens[1:, None])[:, 0].detach().numpy()
    return np.where(trajectory.turn_id >= 0, np.concatenate([[0.0], before]), 0.0)


@pytest.mark.parametrize("name", ["full/zero 1", "full/many micro-batches", "full/zero 3"])
def test_the_logprobs_that_are_kept_are_those_of_the_step(learnt, director, name):
    """Of the first minibatch under the weights before it; of the second under those after it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(director, dtype=torch.float32)
    rows = [row for batch in batches(0, 0) for row in from_batch(batch).trajectories]
    for row in rows:
        kept = [
            trained_logprobs(learnt[name, "kept", ranks], 0, f"{row.group_id}/{row.sibling}")
            for ranks in (1, 2)
        ]
        np.testing.assert_allclose(*kept, atol=2e-4)
        expected = _plain_logp(model, row)[: len(kept[0])]
        assert len(kept[0]) == np.flatnonzero(row.turn_id >= 0)[-1] + 1
        close = np.allclose(kept[0], expected, atol=1e-4)
        assert close == (row.group_id in ("0", "1")), row.group_id


def test_training_changed_the_weights(learnt, before):
    for family in ("full", "bfloat16"):
        after = learnt[f"{family}/zero 1"][1][0]
        moved = [(after[name] - before[name]).abs().max().item() for name in before]
        assert min(moved) > 1e-3, family
        assert max(moved) < 1e-1, family


def test_lora_changes_the_targeted_matrices_alone(learnt, before):
    after = learnt["lora/zero 3"][2][0]
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    targets = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")
    assert changed == {name for name in before if name.endswith(targets)}


def test_the_reference_of_lora_is_the_model_that_it_began_as(learnt):
    """θ is the reference until the first update; the KL divergence then grows from 0."""
    metrics = learnt["lora/zero 3"][2][1]
    assert metrics[0]["kl_reference"] < metrics[-1]["kl_reference"]
    assert metrics[-1]["kl_reference"] > 1e-6


def _look_back(rank, cases, director, port, out):
    """Gangs whose batches were sampled, exactly, by the learner's own policy of each version."""
    from learner.learner import Learner
    from learner.packing import Row, pack

    for index, sections in enumerate(cases):
        config = _config(2, learner={"snapshots": EVERY_STEP, **sections}, buffer={"max_lag": 3})
        learner = Learner(config, director, rank=rank, init_method=f"tcp://127.0.0.1:{port}")
        groups = [from_batch(batch) for batch in batches(9)]
        trajectories = [t for group in groups for t in group.trajectories]
        for trajectory in trajectories:
            trajectory.behaviour_logprob = trajectory.behaviour_logprob.copy()
        metrics = []
        for version in range(4):
            for number, trajectory in enumerate(trajectories):
                row = Row.of(trajectory, 0.0, version)
                (logp,) = learner._score([pack([row])])
                # The first turn belongs to version 0; the second moves on with some, half of it.
                start, end = trajectory.turns[1].start, trajectory.turns[1].end
                first, middle = trajectory.turns[0], (start + end) // 2
                if version == 0:
                    trajectory.behaviour_logprob[: len(row)] = logp.numpy()
                elif number % 4 >= version:
                    trajectory.behaviour_logprob[middle:end] = logp[middle:end].numpy()
                    trajectory.version_spans = [
                        VersionSpan(first.start, first.end, 0),
                        VersionSpan(start, middle, 0),
                        VersionSpan(middle, end, version),
                    ]
            metrics.append(learner.step(version, *map(to_batch, groups)))
        if rank == 0:
            torch.save(metrics, f"{out}/{index}.pt")
        learner._engine._engine.destroy()
    learner.close()


def test_an_exact_sampler_has_no_mismatch_whatever_the_lag(director, tmp_path):
    from cluster.ports import free_port

    cases = [
        {"zero_stage": 2},
        {"zero_stage": 3, "offload_parameters": True, "offload_optimizer": True},
        {"zero_stage": 3, "lora": {"rank": 4}},
    ]
    torch.multiprocessing.spawn(_look_back, (cases, director, free_port(), str(tmp_path)), nprocs=2)
    for index in range(len(cases)):
        metrics = torch.load(tmp_path / f"{index}.pt")
        for step in metrics:
            for end in ("", "_min", "_max"):
                assert step[f"w_mismatch{end}"] == pytest.approx(1, abs=1e-4)
        assert metrics[0]["w_stale_max"] == pytest.approx(1, abs=1e-4)
        assert metrics[3]["w_stale_max"] > 1.001
        assert metrics[3]["w_stale/lag_3"] != pytest.approx(1, abs=1e-3)


def test_objective_reaches_the_learner(director, tmp_path):
    """A-3PO at lag 0 is centred on μ, not on θ; `batch` compares all groups with each other."""
    config = _config(objective={"preset": "a3po", "advantage": "batch"}, learner={"minibatches": 1})
    _, metrics = _run(config, director, tmp_path / "run")
    groups = [from_batch(batch) for batch in batches(0)]
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
            learner.step(version, *batches(version))
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


def _interrupted(rank, config, director, port, out):
    """Four steps with a checkpoint after two, and a second learner that goes on from there."""
    from learner.learner import Learner

    learner = Learner(config, director, rank=rank, init_method=f"tcp://127.0.0.1:{port}")
    for version in range(4):
        if version == 2:
            learner.save(f"{out}/2", {})
            learner.snapshot({})
        learner.step(version, *batches(version))
    place = begin(Path(out) / f"late-{rank}")
    learner.write(str(place))  # steps have been taken since
    learner.save(f"{out}/whole", {})
    learner.restore(f"{out}/2")
    for version in (2, 3):
        learner.step(version, *batches(version))
    learner.save(f"{out}/resumed", {})
    learner.close()


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (1, 0), (2, 3), (2, 2)])
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(director, tmp_path, ranks, stage):
    """Weights, moments and schedule: the weights after two more steps are equal to the bit."""
    learner = {"schedule": "cosine", "warmup_steps": 2}
    from safetensors.torch import load_file

    from cluster.ports import free_port

    arguments = (_config(ranks, stage, learner=learner), director, free_port(), str(tmp_path))
    torch.multiprocessing.spawn(_interrupted, arguments, nprocs=ranks)
    whole, resumed, middle = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed", "2")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], middle[name]) for name in whole)
    for rank in range(ranks):
        late = unfinished(tmp_path / f"late-{rank}")
        for path in late.rglob("*.safetensors"):
            then, now = load_file(tmp_path / "2" / path.relative_to(late)), load_file(path)
            assert then.keys() == now.keys()
            assert all(torch.equal(then[name], now[name]) for name in then)
        assert (late / "training" / f"rank-{rank}.safetensors").exists()
