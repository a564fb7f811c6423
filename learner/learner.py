"""The learner: one rank of the gang that turns batches of groups into new weights.

Every rank gets the whole batch by reference and works on its own share of the rows, so that global
denominators need no communication. Plain class with blocking methods; `cluster` hosts it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from learner.checkpoint import Adapter, save_checkpoint
from learner.engine import Engine
from learner.interpolation import interpolate
from learner.lora import adapt, adapter_weights, without_adapter
from learner.metric_sums import MetricSums
from learner.objectives import policy_loss
from learner.packing import PackedBatch, Row, denominators, pack, plan
from learner.policy import Policy
from learner.publisher import EngineSource, Publisher, SamplersClient
from learner.staleness_probe import StalenessProbe
from wfr.advantage import GroupAdvantage, advantages
from wfr.columns import GroupView, view
from wfr.config import Config
from wfr.protocols import PeerLostError, PublishError, TransferGroup


class Learner:
    """One rank: `step` trains on a batch, `publish` sends what came out."""

    def __init__(
        self,
        config: Config,
        model_path: str,
        *,
        rank: int = 0,
        init_method: str = "tcp://127.0.0.1:29400",
        version: int = 0,
    ) -> None:
        """Load the director in `model_path` and join the gang; `version` is what it counts as."""
        torch.set_num_threads(config.learner.threads)
        torch.manual_seed(config.run.seed)
        self._config = config
        self._rank = rank
        self._ranks = config.learner.ranks
        self._source = Path(model_path)
        self._version = version
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        self._model = model
        self._lora = config.learner.lora if config.learner.lora.rank else None
        if self._lora is not None:
            adapt(model, self._lora)
        policy = Policy(
            model,
            temperature=config.rollout.temperature,
            attention=config.learner.attention,
            checkpointing=config.learner.gradient_checkpointing,
        )
        copied = config.objective.kl_coef > 0 and self._lora is None
        self._reference = _frozen(policy) if copied else None
        self._engine = Engine(
            config.learner,
            policy,
            rank=rank,
            ranks=self._ranks,
            init_method=init_method,
            total_steps=config.train.steps * config.learner.minibatches,
        )
        if self._reference is not None:
            self._reference.to(self._engine.device, self._engine.dtype)
        self._probe = self._make_probe() if config.learner.snapshots.mib else None
        self._publisher = Publisher(self._engine, model, rank)

    def step(self, version: int, *batches: pa.RecordBatch) -> dict[str, float]:
        """Train on one batch of groups under `version`; the weights become version + 1.

        Returns:
            Metrics of the step, equal on all ranks; times are seconds.

        Raises:
            ValueError: `version` is not the learner's, or a trajectory exceeds the lag bound.
            FloatingPointError: the gradient is not finite.
        """
        if version != self._version:
            raise ValueError(f"asked to train version {version}, but holds {self._version}")
        started = time.perf_counter()
        groups = [view(batch) for batch in batches]
        compared = advantages(groups, self._config.objective.advantage)
        shares = self._split(list(map(self._rows, groups, compared)))
        metrics = self._measure([row for rows in shares for row in rows])
        proximal = self._proximal(shares)
        for index, rows in enumerate(shares):
            if any(rows):
                metrics |= self._update(rows, proximal[index])
        self._version += 1
        metrics |= _summary(groups, shares)
        metrics["learner/step_seconds"] = time.perf_counter() - started
        return metrics

    def connect(self, group: TransferGroup, client: SamplersClient) -> None:
        """(Re)build the weight-transfer group; all ranks call it.

        Raises:
            PublishError: a sampler did not join.
        """
        try:
            self._publisher.connect(group, client)
        except (PeerLostError, RuntimeError) as error:
            raise PublishError(f"the transfer group could not be opened: {error}") from error

    def publish(self) -> int:
        """Send the current weights to every sampler; returns the version they now have.

        Raises:
            PublishError: a sampler died or did not answer; others may be left half updated.
        """
        try:
            self._publisher.publish(self._version)
        except (PeerLostError, RuntimeError) as error:
            raise PublishError(f"version {self._version}: {error}") from error
        return self._version

    def save(self, target: str, state: dict[str, Any]) -> None:
        """Write a Hugging Face checkpoint, adapters merged in; all ranks call it, rank 0 writes."""
        weights: dict[str, Tensor] = {}
        for name, tensor in EngineSource(self._engine, self._model):
            if self._rank == 0:
                weights[name] = tensor.detach().cpu().clone()
        adapter = self._adapter()
        if self._rank == 0:
            state = {"version": self._version, **state}
            save_checkpoint(
                self._model,
                weights,
                state,
                source=self._source,
                target=Path(target),
                adapter=adapter,
            )

    def close(self) -> None:
        """Leave the gang."""
        self._engine.close()

    def _make_probe(self) -> StalenessProbe:
        objective = self._config.objective
        return StalenessProbe(
            self._config.learner.snapshots,
            objective.correction_unit or objective.ratio_unit,
            self._engine,
            self._mine,
            self._score,
        )

    def _adapter(self) -> Adapter | None:
        """A copy of the adapter's weights, if there is one; all ranks call it."""
        if self._lora is None:
            return None
        parts = adapter_weights(self._model)
        with self._engine.gathered(list(parts.values())):
            copies = {name: part.detach().cpu().clone() for name, part in parts.items()}
        return Adapter(copies, self._lora, str(self._source))

    def _rows(self, group: GroupView, advantage: GroupAdvantage) -> list[Row]:
        """The rows of one group that take part; asserts the staleness bound where it matters."""
        if advantage.zero_variance and self._config.objective.zero_variance == "drop":
            return []
        rows = [
            Row.of(trajectory, float(value), self._version)
            for trajectory, value, scored in zip(
                group.trajectories, advantage.values, advantage.scored, strict=True
            )
            if scored
        ]
        bound = self._config.buffer.max_lag
        stale = [row.name for row in rows if row.turn_lag.max() > bound]
        if stale:
            raise ValueError(f"lag above max_lag={bound} at version {self._version}: {stale}")
        return rows

    def _split(self, groups: Sequence[list[Row]]) -> list[list[Row]]:
        """Rows of each minibatch: whole groups, in order."""
        size = len(groups) // self._config.learner.minibatches
        return [
            [row for group in groups[start : start + size] for row in group]
            for start in range(0, len(groups), size)
        ]

    def _mine(self, rows: Sequence[Row]) -> list[PackedBatch]:
        """This rank's micro-batches."""
        dealt = plan(rows, ranks=self._ranks, max_tokens=self._config.learner.max_tokens)
        return [
            pack([rows[index] for index in indices]).to(self._engine.device)
            for indices in dealt[self._rank]
        ]

    def _measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """What the probe says about the batch, if there is one."""
        if self._probe is None:
            return {}
        return self._probe.measure(self._version, rows, self._config.run.seed)

    def _proximal(self, shares: Sequence[list[Row]]) -> list[list[Tensor] | None]:
        """Log-probs under the policy before the first update, where it will differ from θ.

        During the first minibatch θ is the proximal policy, so its pass is skipped.
        """
        if self._config.objective.proximal != "current":
            return [None for _ in shares]
        return [
            self._score(self._mine(rows)) if index else None for index, rows in enumerate(shares)
        ]

    @torch.no_grad()
    def _score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        return [self._forward(batch)[0] for batch in batches]

    def _update(self, rows: Sequence[Row], proximal: list[Tensor] | None) -> dict[str, float]:
        """One optimizer step over all micro-batches of all ranks."""
        total = denominators(rows)
        batches = self._mine(rows)
        references = self._referred(batches)
        sums: MetricSums | None = None
        for index, batch in enumerate(batches):
            logp, entropy = self._forward(batch)
            loss = policy_loss(
                logp=logp,
                proximal_logp=self._proximal_logp(batch, logp, proximal, index),
                behaviour_logp=batch.behaviour_logp,
                reference_logp=references[index],
                advantage=batch.advantage,
                turn_id=batch.turn_id,
                row_id=batch.row_id,
                turn_lag=batch.turn_lag,
                config=self._config.objective,
                denominators=total,
                entropy=entropy,
            )
            self._engine.backward(loss.loss, last=index == len(batches) - 1)
            sums = loss.metrics if sums is None else sums + loss.metrics
        norm = self._engine.step()
        if norm != norm or norm == float("inf"):
            raise FloatingPointError(f"the gradient's norm is {norm} at version {self._version}")
        assert sums is not None
        return {**self._engine.reduce(sums).values(), "learner/grad_norm": norm}

    def _proximal_logp(
        self, batch: PackedBatch, logp: Tensor, proximal: list[Tensor] | None, index: int
    ) -> Tensor:
        if self._config.objective.proximal == "behaviour":
            return batch.behaviour_logp
        if self._config.objective.proximal == "interpolated":
            return interpolate(logp, batch.behaviour_logp, batch.turn_lag)
        return logp.detach() if proximal is None else proximal[index]

    def _forward(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        logp, entropy = self._engine.forward(**batch.inputs)
        return logp, entropy

    def _referred(self, batches: Sequence[PackedBatch]) -> Sequence[Tensor | None]:
        """Log-probs under the reference: the policy without its adapter, or a frozen copy.

        They come before the first gradient, because a pass without the adapter between a forward
        and its backward would upset ZeRO-3's order of gathering.
        """
        if not self._config.objective.kl_coef:
            return [None] * len(batches)
        if self._reference is None:
            with without_adapter(self._model):
                return self._score(batches)
        with torch.no_grad(), self._engine.autocast():
            return [self._reference(**batch.inputs)[0] for batch in batches]


def _frozen(policy: Policy) -> Policy:
    reference = copy.deepcopy(policy).eval()
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


def _summary(groups: Iterable[GroupView], shares: Sequence[list[Row]]) -> dict[str, float]:
    """What the batch was like, before any loss."""
    scored = [t for group in groups for t in group.scored]
    rewards = torch.tensor([t.reward for t in scored], dtype=torch.float64)
    rows = [row for rows in shares for row in rows]
    metrics = {
        "batch/trajectories": float(len(scored)),
        "batch/rows": float(len(rows)),
        "batch/policy_tokens": float(sum(t.policy_tokens for t in scored)),
        "batch/turns": float(sum(len(t.turns) for t in scored)) / max(1, len(scored)),
        "reward/mean": float(rewards.mean()) if len(scored) else 0.0,
    }
    for part in sorted({key for t in scored for key in t.reward_parts}):
        values = [t.reward_parts.get(part, 0.0) for t in scored]
        metrics[f"reward/{part}"] = sum(values) / len(values)
    return metrics
