"""Resuming with other ranks and another ZeRO stage than those that wrote the checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from random_groups import VOCABULARY, batches

from cluster.ports import free_port
from wfr.config import TinyModelConfig, parse_config

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

CASES = {
    **{f"zero {stage}": {"zero_stage": stage} for stage in (0, 2, 3)},  # 1 is read as of 2
    "zero 3, offload": {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
    "zero 3, bfloat16": {"zero_stage": 3, "dtype": "bfloat16"},
    "zero 2, lora": {"zero_stage": 2, "lora": {"rank": 4}},
}
OTHER = {0: 3, 1: 2, 2: 1, 3: 0}
"""The stage that a checkpoint of each stage is read under by other ranks."""
TOLERANCE = 1e-5
"""Absolute, of weights after another step at learning rate 1e-3: with other ranks gradients are
summed in another order, and Adam divides by their size. Masters and moments are read exactly."""


def _config(ranks, settings):
    learner = {
        **{"ranks": ranks, "lr": 1e-3, "max_tokens": 256, "minibatches": 1},
        **{"schedule": "cosine", "warmup_steps": 2, **settings},
    }
    return parse_config({"model": {"max_length": 96}, "learner": learner, "train": {"steps": 3}})


def _changed(settings):
    """The same under another stage."""
    stage = OTHER[settings["zero_stage"]]
    changed = {k: v for k, v in settings.items() if not k.startswith("offload")}
    return {**changed, "zero_stage": stage}


def _life(rank, ranks, director, port, out):
    """One rank: writes every case's checkpoint, and goes on from those that are there."""
    from learner import engine
    from learner.learner import Learner

    engine._casts_weights = lambda config, device: config.dtype == "bfloat16"  # as on GPU
    settings = {"director": director, "rank": rank, "method": f"tcp://127.0.0.1:{port}"}
    for name, case in CASES.items():
        learner = _learner(Learner, _config(ranks, case), **settings)
        _steps(learner, 0, 2)
        learner.save(f"{out}/{name}/{ranks}/2", {})
        _steps(learner, 2, 3)
        learner.save(f"{out}/{name}/{ranks}/3", {})
        learner._engine._engine.destroy()
        other = f"{out}/{name}/{3 - ranks}/2"
        if ranks == 2:  # those of one rank are there
            _go_on_both(Learner, case, 2, other, settings)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _learner(kind, config, director, rank, method):
    return kind(config, director, rank=rank, init_method=method)


def _steps(learner, first, last):
    for version in range(first, last):
        learner.step(version, *batches(version, version))


def _go_on_both(kind, case, ranks, checkpoint, settings):
    """Under another stage, and (for the plain cases) under the same."""
    _go_on(_learner(kind, _config(ranks, _changed(case)), **settings), checkpoint, "other stage")
    if len(case) == 1:
        _go_on(_learner(kind, _config(ranks, case), **settings), checkpoint, "same stage")


def _go_on(learner, checkpoint, name):
    learner.restore(checkpoint)
    if name == "other stage":
        learner.save(f"{checkpoint}, {name}, again", {})
    _steps(learner, 2, 3)
    learner.save(f"{checkpoint}, {name}", {})
    learner._engine._engine.destroy()


def _fewer(rank, director, port, out):
    """One rank that goes on from the checkpoints of two."""
    from learner import engine
    from learner.learner import Learner

    engine._casts_weights = lambda config, device: config.dtype == "bfloat16"
    settings = {"director": director, "rank": rank, "method": f"tcp://127.0.0.1:{port}"}
    for name, case in CASES.items():
        written = f"{out}/{name}/2/2"
        _go_on_both(Learner, case, 1, written, settings)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of 1 and 2 ranks, and what came of them on 2 and 1."""
    from learner.tiny import build_model

    out = tmp_path_factory.mktemp("world")
    director = out / "director"
    shape = TinyModelConfig(layers=2, hidden=32, intermediate=64, heads=2)
    build_model(shape, VOCABULARY, 1).save_pretrained(director)
    for ranks in (1, 2):
        arguments = (ranks, str(director), free_port(), str(out))
        torch.multiprocessing.spawn(_life, arguments, nprocs=ranks)
    torch.multiprocessing.spawn(_fewer, (str(director), free_port(), str(out)), nprocs=1)
    return out


def _weights(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def _masters(path):
    """All masters and moments of a checkpoint by kind and name, put together."""
    from safetensors import safe_open

    parts = {}
    for file in sorted((path / "training").iterdir()):
        with safe_open(file, framework="pt") as held:
            starts = json.loads(held.metadata()["starts"])
            for key in held.keys():  # noqa: SIM118
                if "/" in key:
                    start = starts[key.partition("/")[2]]
                    parts.setdefault(key, {})[start] = held.get_tensor(key)
    return {key: torch.cat([found[s] for s in sorted(found)]) for key, found in parts.items()}


VARIANTS = [(n, s) for n, c in CASES.items() for s in ("same stage", "other stage")[len(c) > 1 :]]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("name", "stage"), VARIANTS)
def test_other_ranks_go_on_as_those_before_would_have(written, name, ranks, stage):
    directory = written / name / str(ranks)
    expected, start = _weights(directory / "3"), _weights(directory / "2")
    went_on = _weights(directory / f"2, {stage}")
    tolerance = 2**-8 if "bfloat16" in name else TOLERANCE
    for key, tensor in expected.items():
        torch.testing.assert_close(went_on[key], tensor, atol=tolerance, rtol=0)
    assert any(not torch.equal(start[key], went_on[key]) for key in expected)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_rounded_on_the_way(written, name, ranks):
    """What other ranks write at once is what they have read, to the bit."""
    directory = written / name / str(ranks)
    before, after = _masters(directory / "2"), _masters(directory / "2, other stage, again")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    old, new = _weights(directory / "2"), _weights(directory / "2, other stage, again")
    assert all(torch.equal(old[key], new[key]) for key in old)
