"""`max_lag: 0` is the synchronous system: bit for bit what a plain loop learns from its samples.

The loop trains on the samples that the run has recorded, all of which the run's engine drew from
the weights of the very version that consumes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(900)]

CONFIG = """
run: {name: run, dir: RUNS}
model: {max_length: 512}
tasks: {eval_tasks: 6}
environment:
  prompt: question
  pool: [Search, Programmer]
  max_turns: 4
  max_response_tokens: 400
  max_turn_tokens: 24
  observation_chars: 300
warmstart: {steps: 30, batch: 8}
rollout: {group_size: 4}
buffer: {max_lag: 0}
objective: {kl_coef: 0.0, entropy_coef: 0.01}
learner: {lr: 1.0e-3, max_tokens: 65536, grad_clip: 1.0e+6}
train: {steps: 5, groups_per_batch: 4}
"""


def plain_loop(config, base, batches):
    """Sampled groups in, metrics of each step and weights out: no DeepSpeed, no Ray, no buffer."""
    import torch
    from transformers import AutoModelForCausalLM

    from learner.objectives import policy_loss
    from learner.packing import Row, denominators, pack
    from learner.policy import Policy
    from wfr.advantage import advantages
    from wfr.schema import from_batch

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    policy = Policy(model, temperature=config.rollout.temperature, attention="sdpa")
    settings = config.learner
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,  # another order of operations, another last bit
    )
    steps = []
    for version, batch in enumerate(batches):
        groups = [from_batch(group) for group in batch]
        rows = [
            Row.of(trajectory, float(value), version)
            for group, compared in zip(
                groups, advantages(groups, config.objective.advantage), strict=True
            )
            for trajectory, value, scored in zip(
                group.trajectories, compared.values, compared.scored, strict=True
            )
            if scored
        ]
        packed = pack(rows)
        logp, entropy = policy(
            input_ids=packed.input_ids, position_ids=packed.position_ids, turn_id=packed.turn_id
        )
        loss = policy_loss(
            logp=logp,
            proximal_logp=logp.detach(),
            behaviour_logp=packed.behaviour_logp,
            reference_logp=None,
            advantage=packed.advantage,
            turn_id=packed.turn_id,
            row_id=packed.row_id,
            turn_lag=packed.turn_lag,
            config=config.objective,
            denominators=denominators(rows),
            entropy=entropy,
        )
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        steps.append(loss.metrics.values())
    return steps, model.state_dict()


def test_five_steps_without_lag_are_those_of_a_plain_loop(tmp_path):
    import torch
    from safetensors.torch import load_file

    from wfr.columns import view
    from wfr.config import load_config
    from wfr.recording import Recording

    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("RUNS", str(tmp_path)))
    command = [sys.executable, "-m", "cluster.cli", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    run = tmp_path / "run"
    batches = Recording(run).batches(4, 2)
    assert [batch.version for batch in batches] == [0, 1, 2, 3, 4]
    for batch in batches:
        versions = {v for g in batch.groups for t in view(g).trajectories for v in t.oldest}
        assert versions == {batch.version}  # sampled by the very weights that it trains
    steps, weights = plain_loop(load_config(path), run / "base", [b.groups for b in batches])

    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    recorded = [record for record in records if record["kind"] == "step"]
    for step, record in zip(steps, recorded, strict=True):
        assert {key: record[key] for key in step} == step
    final = load_file(run / "checkpoints" / "5" / "model.safetensors")
    base = load_file(run / "base" / "model.safetensors")
    assert all(torch.equal(final[name], weights[name]) for name in final)
    assert any(not torch.equal(final[name], base[name]) for name in final)
