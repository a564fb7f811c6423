"""The learner: one rank of the gang that turns batches of groups into new weights.

Every rank gets the whole batch by reference and works on its own share of the rows, so that global
denominators need no communication. Plain class with blocking methods; `cluster` hosts it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from learner.checkpoint import Adapter, Director, Snapshot
from learner.columns import DivergedError, ImpossibleValueError
from learner.engine import Engine
from learner.interpolation import interpolate
from learner.lora import adapt, adapter_weights, without_adapter
from learner.m2po import second_moment_cut
from learner.metric_sums import MetricSums
from learner.objectives import policy_loss, second_moments
from learner.packing import PackedBatch, Row, denominators, pack, plan
from learner.partitions import SavedState
from learner.policy import Policy
from learner.publisher import EngineSource, Publisher, SamplersClient
from learner.staleness_probe import StalenessProbe
from learner.weights_gate import WeightsGate
from wfr.advantage import GroupAdvantage, advantages
from wfr.checkpoint_directory import STATE, TRAINING, begin, seal, unfinished
from wfr.columns import GroupView, views
from wfr.config import Config
from wfr.lag_parts import LagParts, histograms
from wfr.phases import PhaseClock
from wfr.protocols import (
    PeerLostError,
    Publication,
    PublishError,
    SamplersLostError,
    TransferGroup,
)
from wfr.soundness import BatchRefusedError, Refusal, fault
from wfr.trained_logprobs import TrainedLogprobs


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
        set_aside: Callable[[pa.RecordBatch], None] | None = None,
        logprobs: TrainedLogprobs | None = None,
    ) -> None:
        """Load the director in `model_path` and join the gang; `version` is what it counts as.

        `set_aside` gets every group that cannot be trained on, `logprobs` what a step computed.
        """
        torch.set_num_threads(config.learner.threads)
        torch.manual_seed(config.run.seed)
        self._config = config
        self._set_aside = set_aside
        self._logprobs = logprobs
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
        source = EngineSource(self._engine, model)
        self._publisher = Publisher(source, rank, checksums=config.weights.checksums)
        self._gate = WeightsGate()
        self._snapshot: Snapshot | None = None

    def step(self, version: int, *batches: pa.RecordBatch) -> dict[str, Any]:
        """Train on one batch of groups under `version`; the weights become version + 1.

        Groups whose records are not sound are left out. A minibatch whose loss or gradient is not
        finite, or in which every token is masked, is left out whole; weights and moments stay as
        they were.

        Returns:
            Metrics of the step, equal on all ranks; times are seconds. Under `refused`, if there
            are any, the groups that were left out, each a `Refusal` as a mapping.

        Raises:
            BatchRefusedError: nothing of the batch could be trained on; the version stays.
            ValueError: an empty batch, `version` is not the learner's, or a trajectory exceeds the
                lag bound.
        """
        if version != self._version:
            raise ValueError(f"asked to train version {version}, but holds {self._version}")
        if not batches:
            raise ValueError(f"version {version}: an empty batch; a step needs at least one group")
        started, clock = time.perf_counter(), PhaseClock("read")
        groups = views(batches)
        refused = {refusal.group_id: refusal for refusal in map(_unsound, groups) if refusal}
        sound = [group for group in groups if group.group_id not in refused]
        compared = advantages(sound, self._config.objective.advantage)
        rows = {
            group.group_id: self._rows(group, values)
            for group, values in zip(sound, compared, strict=True)
        }
        shares = self._split([rows.get(group.group_id, []) for group in groups])
        metrics: dict[str, Any] = {}
        try:
            clock.enter("measure")
            measured = self._measure([row for share in shares for row in share])
            clock.enter("proximal")
            proximal = self._proximal(shares)
            clock.enter("update")
            for index, share in enumerate(shares):
                if share:
                    outcome = self._update(share, proximal[index])
                    metrics = outcome.metrics or metrics
                    refused |= outcome.refused
            if not metrics:
                for group in sound:
                    equal = Refusal(group.group_id, "zero_variance", "its rewards are all equal")
                    refused.setdefault(group.group_id, equal)
            clock.enter("other")
            self._keep_aside(groups, batches, refused)
            if not metrics:
                raise BatchRefusedError(list(refused.values()))
            metrics = measured | metrics
            if self._recorded is not None:
                self._recorded.write(version)
            self._version += 1
        finally:
            self._gate.end_change()
        metrics |= _summary(groups, shares)
        metrics |= histograms(
            LagParts.of(episode.oldest, episode.newest, version)
            for group in sound
            for episode in group.scored
        )
        flat = sum(values.zero_variance for values in compared)
        metrics["batch/zero_variance_ratio"] = flat / len(groups)
        metrics["learner/step_seconds"] = time.perf_counter() - started
        metrics["learner/phase_seconds"] = clock.seconds()
        if refused:
            metrics["refused"] = [dataclasses.asdict(refusal) for refusal in refused.values()]
        return metrics

    def connect(self, group: TransferGroup, client: SamplersClient) -> None:
        """(Re)build the weight-transfer group; all ranks call it.

        Raises:
            PublishError: a sampler did not join.
        """
        try:
            self._publisher.connect(group, client)
        except (PeerLostError, RuntimeError) as error:
            blamed = error.lost if isinstance(error, SamplersLostError) else None
            raise PublishError(
                f"the transfer group could not be opened: {error}", blamed
            ) from error

    def hold(self) -> None:
        """The current weights are to be published: the next optimizer step waits until they are.

        So `publish` may run beside the forward and backward passes of `step`, in another thread;
        not under ZeRO-3, where both need collectives of all ranks in one order.
        """
        self._gate.hold()

    def publish(self) -> Publication:
        """Send the current weights to every sampler; returns the version they now have.

        Raises:
            PublishError: a sampler died or did not answer; the others hold still.
        """
        try:
            with self._gate.sending():
                version = self._version
                lost = self._publisher.publish(version)
        except (PeerLostError, RuntimeError) as error:
            blamed = error.lost if isinstance(error, SamplersLostError) else None
            raise PublishError(f"version {self._version}: {error}", blamed) from error
        return Publication(version, lost, self._publisher.seconds)

    def snapshot(self, state: dict[str, Any]) -> None:
        """Copy into CPU memory what `write` writes; `state` goes to `wfr_state.json`.

        All ranks call it. Beside the copies of `Engine.share`, rank 0 holds one of all weights.
        """
        share = self._engine.share()
        weights: dict[str, Tensor] = {}
        for name, tensor in EngineSource(self._engine, self._model):
            if self._rank == 0:
                weights[name] = tensor.detach().to("cpu", copy=True)
        adapter, director = self._adapter(), None
        if self._rank == 0:
            about = {"version": self._version, **state}
            director = Director(self._model, weights, self._source, about, adapter)
        self._snapshot = Snapshot(share, director)

    def write(self, directory: str) -> None:
        """Write this rank's files of the last snapshot to `directory`, and let go of the copies.

        It may run in another thread beside `step` and `publish`. Where it fails, for example on a
        full disk, the copies are kept, and it may be called again; where all is written, that does
        nothing.
        """
        if self._snapshot is not None:
            self._snapshot.write(Path(directory))
            self._snapshot = None

    def save(self, target: str, state: dict[str, Any]) -> None:
        """Write a Hugging Face checkpoint, adapters merged in, with the state to go on from.

        All ranks call it and wait. It appears whole or not at all.
        """
        self.snapshot(state)
        place = unfinished(Path(target))
        if self._rank == 0:
            begin(Path(target))
        self._engine.barrier()
        self.write(str(place))
        self._engine.barrier()
        if self._rank == 0:
            seal(Path(target))
        self._engine.barrier()

    def restore(self, checkpoint: str) -> None:
        """Go on from a checkpoint of this run: weights, optimizer, schedule, random numbers.

        All ranks call it; how many there were, and under which ZeRO stage, does not matter. The
        reference stays the director the run began with.

        Raises:
            StateError: the checkpoint does not hold the state of this model.
        """
        state = json.loads((Path(checkpoint) / STATE).read_text(encoding="utf-8"))
        self._engine.restore(SavedState(Path(checkpoint) / TRAINING))
        self._version = int(state["version"])

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

    def _keep_aside(
        self,
        groups: Sequence[GroupView],
        batches: Sequence[pa.RecordBatch],
        refused: Container[str],
    ) -> None:
        if self._rank or self._set_aside is None:
            return
        for group, batch in zip(groups, batches, strict=True):
            if group.group_id in refused:
                self._set_aside(batch)

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
        self._gate.begin_change()  # it puts older weights in the place of these for a while
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

    def _update(self, rows: Sequence[Row], proximal: list[Tensor] | None) -> _Outcome:
        """One optimizer step over all micro-batches of all ranks, or the reasons for none.

        A fault is turned into a gradient that is NaN: ranks go on meeting in their collectives, and
        together they throw the step away.
        """
        total = denominators(rows)
        batches = self._mine(rows)
        cut = self._moment_cut(batches, proximal)
        references = self._referred(batches)
        faults: list[str] = []
        kept = 0
        sums: MetricSums | None = None
        computed: list[Tensor] = []
        for index, batch in enumerate(batches):
            logp, entropy = self._forward(batch)
            loss = logp.sum() * math.nan
            try:
                result = policy_loss(
                    **self._columns(batch, logp, proximal, index),
                    reference_logp=references[index],
                    config=self._config.objective,
                    denominators=total,
                    entropy=entropy,
                    moment_cut=cut,
                )
            except (DivergedError, ImpossibleValueError) as error:
                where = f"trajectory {batch.names[error.row]}, turn {error.turn}"
                faults.append(f"{where}: {error}")
            else:
                loss, kept = result.loss, kept + int(result.kept)
                computed.append(logp.detach())
                sums = result.metrics if sums is None else sums + result.metrics
            last = index == len(batches) - 1
            if last and not (kept := self._engine.total(kept)):
                loss = logp.sum() * math.nan  # a step of momentum alone teaches nothing
            self._engine.backward(loss, last=last)
        self._gate.begin_change()
        norm = self._engine.step()
        if not math.isfinite(norm):
            return self._refuse(rows, faults, kept)
        assert sums is not None
        if self._recorded is not None:
            for batch, logp in zip(batches, computed, strict=True):
                self._recorded.add(batch.names, batch.lengths, logp.float().cpu().numpy())
        return _Outcome({**self._engine.reduce(sums).values(), "learner/grad_norm": norm}, {})

    @property
    def _recorded(self) -> TrainedLogprobs | None:
        """What keeps the log-probs of this step, if it is one of those that are kept."""
        logprobs = self._logprobs
        return logprobs if logprobs is not None and logprobs.wanted(self._version) else None

    def _refuse(self, rows: Sequence[Row], faults: list[str], kept: int) -> _Outcome:
        """Say why no step was taken, in the same words on every rank."""
        texts = [text for rank in self._engine.gather(faults) for text in rank]
        reason = "not_finite" if texts or kept else "masked"
        unnamed = "the gradient is not finite" if kept else "every policy token is masked"
        detail = "; ".join(texts) or unnamed
        groups = dict.fromkeys(row.name.rpartition("/")[0] for row in rows)
        return _Outcome({}, {group: Refusal(group, reason, detail) for group in groups})

    def _moment_cut(
        self, batches: Sequence[PackedBatch], proximal: list[Tensor] | None
    ) -> float | None:
        """M2PO's cut over the whole step, which takes a forward pass of its own."""
        if self._config.objective.surrogate != "m2po":
            return None
        squares = []
        for index, logp in enumerate(self._score(batches)):
            columns = self._columns(batches[index], logp, proximal, index)
            with contextlib.suppress(DivergedError, ImpossibleValueError):  # found again, and named
                squares.append(second_moments(config=self._config.objective, **columns).cpu())
        everywhere = [part for rank in self._engine.gather(squares) for part in rank]
        return second_moment_cut(torch.cat(everywhere), self._config.objective.m2_budget)

    def _columns(
        self, batch: PackedBatch, logp: Tensor, proximal: list[Tensor] | None, index: int
    ) -> dict[str, Tensor]:
        """The columns that every objective reads."""
        return {
            "logp": logp,
            "proximal_logp": self._proximal_logp(batch, logp, proximal, index),
            "behaviour_logp": batch.behaviour_logp,
            "advantage": batch.advantage,
            "turn_id": batch.turn_id,
            "row_id": batch.row_id,
            "turn_lag": batch.turn_lag,
        }

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


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one minibatch: metrics of its step, or why its groups were refused."""

    metrics: dict[str, float]
    refused: dict[str, Refusal]


def _unsound(group: GroupView) -> Refusal | None:
    """Why a group cannot be trained on; nothing if it can."""
    faults = [found for found in map(fault, group.scored) if found]
    return Refusal(group.group_id, "invalid", "; ".join(faults)) if faults else None


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
