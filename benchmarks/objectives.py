"""Loss and log-probabilities against what people would otherwise use.

From hidden states to the gradients of hidden states and head, ours
(`learner.logprobs` + `learner.objectives`, preset `grpo` without KL) and TRL's GRPO loss
(`GRPOTrainer._compute_loss` itself, `loss_type="grpo"`, β = 0, on a model without layers, so that
the hidden states are the embeddings). TRL 1.16 never makes all logits either: its fused head works
in tiles of 4,096 tokens by 32,768 words. The older way of TRL, all logits at once and
`selective_log_softmax` over them, is measured beside it. Each side runs in a process of its own,
which reports the seconds of one step and its peak of memory above what it held before the step
(resident memory; on a GPU, memory that torch has allocated there): inputs are outside, the
gradients that the step leaves behind are inside. On a GPU a step of the same size goes before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Figure, Result, at_most, figure, interleave, ratio
from learner.logprobs import token_logprobs
from learner.objectives import policy_loss

Step = Callable[[], Tensor]
SIDES = ("wfr", "trl", "trl, all logits")


def run(quick: bool) -> Result:
    """Measure; `quick` on small tensors."""
    loss = {"tokens": 256, "vocabulary": 4096, "hidden": 64, "rows": 4} if quick else _LOSS
    torch.set_num_threads(1)
    return Result(
        list(_losses(loss, 1 if quick else 3)),
        setup={**loss, "dtype": "bfloat16", "threads": 1, "device": _DEVICE},
        peers=("trl", "torch"),
    )


_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_LOSS = {"tokens": 8192, "vocabulary": 151_936, "hidden": 896, "rows": 8}


def _losses(sizes: dict[str, int], repeats: int) -> Iterator[Figure]:
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}

    def one(side: str) -> Callable[[], float]:
        def call() -> float:
            measured[side].append(_apart(side, sizes))
            return measured[side][-1]["seconds"]

        return call

    seconds = interleave({side: one(side) for side in SIDES}, repeats=repeats, warmup=0)
    peaks = {side: [each["mib"] for each in measured[side]] for side in SIDES}
    gaps = [abs(each["loss"] - measured["wfr"][0]["loss"]) for s in SIDES for each in measured[s]]
    assert max(gaps) < 1e-2, f"the sides compute different losses: {measured}"
    yield figure("loss and log-probabilities", seconds["wfr"], "s")
    yield ratio("time, ours ÷ TRL's fused head", seconds["wfr"], seconds["trl"], at_most(1))
    yield ratio("time, ours ÷ TRL, all logits", seconds["wfr"], seconds["trl, all logits"])
    yield figure("peak memory", peaks["wfr"], "MiB")
    for side, what in (("trl", "TRL's fused head"), ("trl, all logits", "TRL, all logits")):
        yield ratio(f"peak memory, ours ÷ {what}", peaks["wfr"], peaks[side], at_most(1 / 8))


def _apart(side: str, sizes: dict[str, int]) -> dict[str, float]:
    """Run one step of a side in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.objectives", side, json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _main(side: str, sizes: dict[str, int]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(sizes["tokens"], sizes["hidden"]).bfloat16().to(_DEVICE).requires_grad_()
    head = torch.randn(sizes["vocabulary"], sizes["hidden"])
    weight = (head * sizes["hidden"] ** -0.5).bfloat16().to(_DEVICE).requires_grad_()
    del head
    targets = torch.randint(sizes["vocabulary"], (sizes["tokens"],)).to(_DEVICE)
    advantage = torch.randn(sizes["rows"]).to(_DEVICE)
    make = {"wfr": _ours, "trl": _fused, "trl, all logits": _all_logits}[side]
    step = make(hidden, weight, targets, advantage)
    if _DEVICE == "cuda":  # libraries and kernels are loaded once
        step().backward()  # type: ignore[no-untyped-call]
        hidden.grad = weight.grad = None
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
    with _peak() as peak:
        started = time.perf_counter()
        loss = step()
        loss.backward()  # type: ignore[no-untyped-call]
        if _DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    assert hidden.grad is not None
    assert weight.grad is not None
    report = {"seconds": seconds, "mib": peak[0], "loss": loss.item()}
    sys.stdout.write(json.dumps(report) + "\n")


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Peak of memory inside the block above what was held before it, in MiB."""
    found, page = [0.0], os.sysconf("SC_PAGE_SIZE")
    if _DEVICE == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        found[0] = (torch.cuda.max_memory_allocated() - held) / 2**20
        return

    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * page

    before, done = resident(), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], (resident() - before) / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _ours(hidden: Tensor, weight: Tensor, targets: Tensor, advantage: Tensor) -> Step:
    rows = len(advantage)
    row_id = torch.arange(rows, device=_DEVICE).repeat_interleave(len(targets) // rows)
    turn_id = torch.zeros_like(row_id)

    def step() -> Tensor:
        logp, entropy = token_logprobs(hidden, weight, targets)
        old = logp.detach()
        return policy_loss(
            logp=logp,
            proximal_logp=old,
            behaviour_logp=old,
            advantage=advantage,
            turn_id=turn_id,
            row_id=row_id,
            entropy=entropy.detach(),
            config={"preset": "grpo", "kl_coef": 0.0},
        ).loss

    return step


def _fused(hidden: Tensor, weight: Tensor, targets: Tensor, advantage: Tensor) -> Step:
    from trl.kernels import ChunkedLogProbFunction

    def logprobs() -> tuple[Tensor, Tensor]:
        per_token = ChunkedLogProbFunction.apply(  # type: ignore[no-untyped-call]
            hidden, weight, None, targets, 1.0, 32768, None, 1.0, ("log_probs", "entropy")
        )
        return per_token[0], per_token[1]

    return _trl_loss(logprobs, targets, advantage)


def _all_logits(hidden: Tensor, weight: Tensor, targets: Tensor, advantage: Tensor) -> Step:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    def logprobs() -> tuple[Tensor, Tensor]:
        logits = hidden @ weight.T
        logp, entropy = selective_log_softmax_and_entropy(logits, targets, False)
        return logp.float(), entropy.float()

    return _trl_loss(logprobs, targets, advantage)


def _trl_loss(
    logprobs: Callable[[], tuple[Tensor, Tensor]], targets: Tensor, advantage: Tensor
) -> Step:
    """`GRPOTrainer._compute_loss` over log-probabilities that a head has made."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    rows = len(advantage)
    completions = targets.view(rows, -1)

    def scores(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        logp, entropy = logprobs()
        return logp.view(rows, -1), entropy.view(rows, -1), None

    trainer: Any = GRPOTrainer.__new__(GRPOTrainer)
    options: dict[str, Any] = {
        "report_to": [],
        "use_cpu": _DEVICE == "cpu",
        "output_dir": "unused",
    }
    trainer.args = GRPOConfig(loss_type="grpo", beta=0.0, **options)
    trainer.__dict__.update(_settings(trainer.args))
    trainer._get_per_token_logps_and_entropies = scores
    inputs = {
        "prompt_ids": completions[:, :1],
        "prompt_mask": torch.ones_like(completions[:, :1]),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": advantage,
    }
    model = types.SimpleNamespace()
    return lambda: trainer._compute_loss(model, inputs)


def _settings(args: Any) -> dict[str, Any]:
    """What the trainer's constructor would have read from its arguments."""
    alone = types.SimpleNamespace(
        gather=lambda tensor: tensor, reduce=lambda tensor, **_: tensor, num_processes=1
    )
    return {
        "accelerator": alone,
        "model": types.SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "top_entropy_quantile": args.top_entropy_quantile,
        "off_policy_mask_threshold": args.off_policy_mask_threshold,
        "importance_sampling_level": args.importance_sampling_level,
        "beta": args.beta,
        "loss_type": args.loss_type,
        "epsilon_low": args.epsilon,
        "epsilon_high": args.epsilon if args.epsilon_high is None else args.epsilon_high,
        "use_vllm": False,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        "_metrics": {"train": _Sink(), "eval": _Sink()},
    }


class _Sink(dict[str, Any]):
    """Takes metrics and forgets them."""

    def __missing__(self, key: str) -> list[Any]:
        return []


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]))
