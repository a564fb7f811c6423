"""The training engine: the one file that imports DeepSpeed.

Losses arrive already divided by *global* denominators (`learner.objectives`), so gradients have to
be summed over micro-batches and ranks. DeepSpeed averages over ranks and accumulation steps; the
engine undoes both here, in one place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from learner.attention import check_attention
from learner.metric_sums import MetricSums
from learner.partitions import MASTER, Piece, SavedState, Share, copied, pieces, states
from wfr.learner_config import LearnerConfig

T = TypeVar("T")


class Engine:
    """A module under DeepSpeed ZeRO with AdamW, linear warm-up and gradient clipping."""

    def __init__(
        self,
        config: LearnerConfig,
        module: nn.Module,
        *,
        rank: int,
        ranks: int,
        init_method: str,
        total_steps: int = 0,
    ) -> None:
        """Join the gang at `init_method` (for example `tcp://host:port`) and wrap `module`.

        `total_steps` are the optimizer steps that the learning-rate schedule is laid out for.

        Raises:
            ValueError: the kind of attention cannot run on this machine.
        """
        self._config = config
        self._total_steps = total_steps
        self._ranks = ranks
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if _casts_weights(config, self.device) else torch.float32
        check_attention(config.attention, self.device, self.dtype)
        deepspeed = _deepspeed(self.device)
        deepspeed.init_distributed(
            "nccl" if self.device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            init_method=init_method,
            rank=rank,
            world_size=ranks,
            timeout=datetime.timedelta(seconds=config.collective_timeout_s),
            verbose=False,
        )
        optimizer = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=_settings(config, self.dtype)
        )
        self._zero = deepspeed.zero
        self._steps = 0

    @property
    def module(self) -> nn.Module:
        """The module that was wrapped."""
        return self._engine.module  # type: ignore[no-any-return]

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._steps

    def forward(self, **inputs: Any) -> Any:
        """Run the module; under ZeRO-3 every rank has to call this equally often."""
        with self.autocast():
            return self._engine(**inputs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradient of one micro-batch; `last` marks the final one before `step`."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._ranks, scale_wrt_gas=False)
        if not last:
            self._engine.step()  # counts the micro-batch; no update before the boundary

    def step(self) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping.

        Where the gradient of any rank is not finite it is thrown away on all of them: no weight and
        no moment changes, and the norm that comes back is infinite.
        """
        lr = learning_rate(self._config, self._steps, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = self._unpartitioned_norm() if self._config.zero_stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            self._engine.zero_grad()  # ZeRO refuses such a gradient itself; stage 0 does not
            return math.inf
        self._engine.step()
        if not self._engine.was_step_applied():
            return math.inf
        self._steps += 1
        return float(self._engine.get_global_grad_norm() if norm is None else norm)

    @contextlib.contextmanager
    def gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Make ZeRO-3 partitions whole inside the block; a collective, free below stage 3."""
        if self._config.zero_stage < 3:
            yield
            return
        with self._zero.GatheredParameters(list(parameters)):
            yield

    def shards(self) -> list[torch.Tensor]:
        """This rank's own part of the trainable weights: all of them, or its ZeRO-3 partition.

        Not copies: they change with every step.
        """
        return [
            getattr(parameter, "ds_tensor", parameter).detach()
            for parameter in self.module.parameters()
            if parameter.requires_grad
        ]

    def load(self, shards: Sequence[torch.Tensor]) -> None:
        """Put other values in the place of `shards()`; optimizer and masters do not notice.

        What is computed with them is theirs, but before the next step the old ones must be back.
        """
        self._engine.empty_partition_cache()  # ZeRO-3 keeps small weights whole between passes
        for own, value in zip(self.shards(), shards, strict=True):
            own.copy_(value)

    def reduce(self, metrics: MetricSums) -> MetricSums:
        """Add up metrics over ranks."""
        sums, extremes = metrics.sums.to(self.device), metrics.extremes.to(self.device)
        torch.distributed.all_reduce(sums, torch.distributed.ReduceOp.SUM)
        torch.distributed.all_reduce(extremes, torch.distributed.ReduceOp.MAX)
        return dataclasses.replace(metrics, sums=sums, extremes=extremes)

    def total(self, count: int) -> int:
        """Sum a count over ranks."""
        counts = torch.tensor(count, device=self.device)
        torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.SUM)
        return int(counts)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, which is pickled: for what is small or rare."""
        values: list[Any] = [None] * self._ranks
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        torch.distributed.barrier()

    def share(self) -> Share:
        """A copy of what this rank holds of the state that training goes on with.

        It takes 12 bytes of CPU memory a trainable parameter, divided among the ranks by ZeRO.
        """
        rank = torch.distributed.get_rank()
        held = self._pieces()
        if self._config.zero_stage == 0 and rank:
            held = []  # what all hold is written once
        tensors = copied(held, states(self._optimizer))
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        starts = {piece.name: piece.start for piece in held}
        return Share(rank, self._ranks, self._steps, tensors, starts)

    @torch.no_grad()
    def restore(self, saved: SavedState) -> None:
        """Go on from a state that any number of ranks under any ZeRO stage has left."""
        held = self._pieces()
        saved.fill(held, states(self._optimizer))
        if self._config.zero_stage == 3:
            self._engine.empty_partition_cache()  # small weights are kept whole between passes
            for piece in held:
                own = piece.parameter.ds_tensor.view(-1)
                own[: piece.size].copy_(piece.within(piece.key))
        else:
            for name, parameter in self.module.named_parameters():
                if parameter.requires_grad:
                    master = saved.read(MASTER, name, 0, parameter.numel())
                    parameter.data.copy_(master.view(parameter.shape))
        self._steps = saved.steps
        random = saved.random(torch.distributed.get_rank())
        torch.set_rng_state(random["random"])
        if self.device.type == "cuda" and "random_cuda" in random:
            torch.cuda.set_rng_state(random["random_cuda"], self.device)

    def _pieces(self) -> list[Piece]:
        rank = torch.distributed.get_rank()
        return list(pieces(self.module, self._optimizer, rank, self._ranks))

    def close(self) -> None:
        """Leave the gang; without it the process ends in SIGABRT."""
        self._engine.destroy()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    def _unpartitioned_norm(self) -> float:
        """Stage 0 clips without keeping the norm; the reduced gradients are whole here."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision where the weights themselves stay float32."""
        if self._config.dtype == "bfloat16" and self.dtype == torch.float32:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()


def learning_rate(config: LearnerConfig, step: int, total: int) -> float:
    """Learning rate of optimizer step `step` (0, 1, ...) of `total`: warm-up, then the schedule."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    span = max(1, total - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    fall = 0.0 if config.schedule == "constant" else progress * (1 - config.final_lr)
    return config.lr * (1 - fall)


def _deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed without its CPU extension, which needs a compiler and serves inference."""
    os.environ.setdefault("LOCAL_RANK", "0")  # each rank's process sees its own device only
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("LOCAL_SIZE", "1")
    import deepspeed

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _casts_weights(config: LearnerConfig, device: torch.device) -> bool:
    """Whether DeepSpeed keeps bfloat16 weights with float32 masters, as on GPU.

    On CPU the weights stay float32 and only products are reduced, which is faster there.
    """
    return config.dtype == "bfloat16" and device.type == "cuda"


def _settings(config: LearnerConfig, dtype: torch.dtype) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own CPU optimizer has to be compiled; torch's fused one is as good.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
