"""`max_lag: 0` is the synchronous system, and `run.deterministic` makes it repeatable.

A plain loop trains on the samples that the run has recorded, all of which the run's engine drew
from the weights of the very version that consumes them, and learns the same, bit for bit. So does
the same run when all of it is killed on its way.
"""

from __future__ import annotations

import json

import pytest

from tests.run_process import RunProcess

pytestmark = [pytest.mark.engine, pytest.mark.soak, pytest.mark.timeout(900)]

CONFIG = """
run: {name: run, dir: RUNS, deterministic: true}
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
sampler: {max_num_seqs: 1, prefix_cache: false}
rollout: {group_size: 4, workers: 2}
buffer: {max_lag: 0}
objective: {kl_coef: 0.0, entropy_coef: 0.01}
learner: {lr: 1.0e-3, max_tokens: 65536, grad_clip: 1.0e+6}
train: {steps: 5, groups_per_batch: 2, checkpoint_every: 2}
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run that nobody has interrupted."""
    process = RunProcess(tmp_path_factory.mktemp("whole"), CONFIG)
    try:
        assert process.end() == 0, process.output()
    finally:
        process.clean_up()
    return process.run


def weights_of(checkpoint):
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


def steps_of(run):
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "step"]


_LEARNT = ("step", "version", "groups", "lag/", "loss/", "ratio/", "reward/")


def forget_last_step(path):
    """As if the run had been killed after the publication of a step, before its report."""
    lines = path.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if json.loads(line)["kind"] == "step")
    path.write_text("".join(lines[:last]))


def test_five_steps_without_lag_are_those_of_a_plain_loop(whole):
    import torch

    from wfr.columns import view
    from wfr.config import load_config
    from wfr.recording import Recording

    run, path = whole, whole.parent / "config.yaml"
    batches = Recording(run).batches(2, 2)
    assert [batch.version for batch in batches] == [0, 1, 2, 3, 4]
    for batch in batches:
        versions = {v for g in batch.groups for t in view(g).trajectories for v in t.oldest}
        assert versions == {batch.version}  # sampled by the very weights that it trains
    steps, weights = plain_loop(load_config(path), run / "base", [b.groups for b in batches])

    for step, record in zip(steps, steps_of(run), strict=True):
        assert {key: record[key] for key in step} == step
    final, base = weights_of(run / "checkpoints" / "5"), weights_of(run / "base")
    assert all(torch.equal(final[name], weights[name]) for name in final)
    assert any(not torch.equal(final[name], base[name]) for name in final)


def test_a_run_that_is_killed_ends_with_the_weights_of_one_that_is_not(whole, tmp_path):
    """Killed between two checkpoints, with groups in flight, and a step not yet reported."""
    import torch

    process = RunProcess(tmp_path, CONFIG)
    try:
        process.until_step(3)
        process.kill()
        forget_last_step(process.run / "metrics.jsonl")
        process = RunProcess(tmp_path, CONFIG, "--resume")
        assert process.end() == 0, process.output()
    finally:
        process.clean_up()
    told, expected = (
        [{key: step[key] for key in step if key.startswith(_LEARNT)} for step in steps_of(run)]
        for run in (process.run, whole)
    )
    assert told == expected
    killed, unharmed = (weights_of(run / "checkpoints" / "5") for run in (process.run, whole))
    assert all(torch.equal(killed[name], unharmed[name]) for name in unharmed)
