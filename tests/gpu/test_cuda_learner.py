"""DeepSpeed, bfloat16 and flash attention on a GPU learn what float32 on a CPU does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wfr.config import TinyModelConfig

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

_STEPS = 4
_CASES = {
    "cpu": {"zero_stage": 0},
    "float32": {"zero_stage": 1},
    **{
        f"zero {stage}": {"zero_stage": stage, "dtype": "bfloat16", "attention": "flash"}
        for stage in range(4)
    },
    "zero 2, offload": {"zero_stage": 2, "dtype": "bfloat16", "offload_optimizer": True},
    "lora": {"zero_stage": 1, "dtype": "bfloat16", "attention": "flash", "lora": {"rank": 8}},
}


def _learn(name: str, director: str, out: str) -> None:
    """One learner's life, in a process of its own."""
    from random_groups import batches

    from cluster.ports import free_port
    from learner.learner import Learner
    from wfr.config import parse_config

    settings = {"lr": 1e-3, "max_tokens": 256, **_CASES[name]}
    config = parse_config({"model": {"max_length": 96}, "learner": settings})
    learner = Learner(config, director, init_method=f"tcp://127.0.0.1:{free_port()}")
    steps = [learner.step(version, *batches(version, version)) for version in range(_STEPS)]
    learner.save(out, {})
    numbers = [{k: v for k, v in step.items() if isinstance(v, float)} for step in steps]
    Path(out, "steps.json").write_text(json.dumps(numbers), encoding="utf-8")
    learner.close()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """(weights, metrics of each step) of every case, and the weights before."""
    from random_groups import VOCABULARY
    from safetensors.torch import load_file

    from learner.tiny import build_model

    root = tmp_path_factory.mktemp("cuda")
    shape = TinyModelConfig(layers=2, hidden=64, intermediate=128, heads=2)
    build_model(shape, VOCABULARY, 1).save_pretrained(root / "director")
    running = {}
    for name in _CASES:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if name == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        arguments = [name, str(root / "director"), str(root / name)]
        running[name] = subprocess.Popen([sys.executable, __file__, *arguments], env=environment)
    assert {name: process.wait(300) for name, process in running.items()} == dict.fromkeys(
        _CASES, 0
    )
    found = {"before": (load_file(root / "director" / "model.safetensors"), [])}
    for name in _CASES:
        steps = json.loads((root / name / "steps.json").read_text(encoding="utf-8"))
        found[name] = load_file(root / name / "model.safetensors"), steps
    return found


def _distance(left, right):
    return sum((left[n].float() - right[n].float()).square().sum() for n in right).sqrt().item()


@pytest.mark.parametrize("name", ["float32", *(f"zero {n}" for n in range(4)), "zero 2, offload"])
def test_a_gpu_learns_what_a_cpu_does(learnt, name):
    """The way that was gone differs by less than a quarter of its length; float32's by a 20th."""
    expected, expected_steps = learnt["cpu"]
    weights, steps = learnt[name]
    bound = 0.05 if name == "float32" else 0.25
    way = _distance(learnt["before"][0], expected)
    assert _distance(weights, expected) < bound * way
    for key in ("entropy", "kl_behaviour"):
        wanted = [step[key] for step in expected_steps]
        assert [step[key] for step in steps] == pytest.approx(wanted, rel=0.05), key


def test_an_adapter_learns_on_a_gpu(learnt):
    """Merged on saving: what it targets has moved, and nothing else."""
    before, after = learnt["before"][0], learnt["lora"][0]
    moved = {n for n in before if not torch.equal(after[n].float(), before[n].bfloat16().float())}
    assert moved == {n for n in before if "_proj.weight" in n and "self_attn" in n}


if __name__ == "__main__":
    _learn(*sys.argv[1:])
