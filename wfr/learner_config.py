"""Configuration: the DeepSpeed learner."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wfr.section import Section


class LoraConfig(Section):
    """A low-rank adapter in the place of full-parameter training; FlowSteer's has rank 64."""

    rank: int = Field(0, ge=0)
    """r; 0: no adapter, every weight is trained."""
    alpha: int = Field(64, ge=1)
    """α: what the adapter adds is scaled by α / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapter, active where gradients are computed only."""
    targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1)
    """Names of the linear layers that get one."""


class SnapshotsConfig(Section):
    """Copies of recent weights, which tell staleness from the mismatch of the two engines."""

    mib: int = Field(0, ge=0)
    """CPU memory of one rank for copies of its trainable weights; 0: none, nothing is measured."""
    every: int = Field(4, ge=1)
    """Measure in every so many steps."""
    trajectories: int = Field(8, ge=1)
    """Trajectories of a batch that are measured, drawn at random."""


class LogprobsConfig(Section):
    """The learner's own log-probs of the tokens it trains on, for the trajectory inspector."""

    every: int = Field(10, ge=0)
    """Keep those of every so many steps in the run's `logprobs/`, 4 bytes a token; 0: none."""
    mib: int = Field(1024, ge=1)
    """Disk space of one rank's; the oldest make room."""


class LearnerConfig(Section):
    """The DeepSpeed learner."""

    ranks: int = Field(1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 1
    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps over which the learning rate rises linearly."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls afterwards, to `final_lr` × `lr` at the last step."""
    final_lr: float = Field(0.1, ge=0, le=1)
    grad_clip: float = Field(1.0, gt=0)
    minibatches: int = Field(1, ge=1)
    """Optimizer steps per batch; the proximal policy is the one before the first of them."""
    max_refusals: int = Field(10, ge=1)
    """Batches in a row with groups that cannot be trained on stop the run with advice."""
    max_tokens: int = Field(16384, ge=16)
    """Most tokens of one packed micro-batch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of forward and backward; master weights are float32."""
    attention: Literal["sdpa", "eager", "flash"] = "sdpa"
    """`flash`: for NVIDIA GPUs from Ampere on, in bfloat16; `eager` is fastest on a CPU in bfloat16
    where trajectories are short."""
    threads: int = Field(1, ge=1)
    """CPU threads of one rank."""
    gradient_checkpointing: bool = False
    """Keep one activation per layer and compute the others anew in the backward pass."""
    collective_timeout_s: float = Field(600.0, gt=0)
    """Seconds after which a collective that a rank does not join fails; then all ranks start anew
    from the newest checkpoint. Must exceed what one rank may wait for another within a step."""
    offload_optimizer: bool = False
    """Keep master weights and Adam moments in CPU memory and update there; ZeRO 1 to 3."""
    offload_parameters: bool = False
    """Keep the partitioned weights in CPU memory too; ZeRO 3."""
    lora: LoraConfig = LoraConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    logprobs: LogprobsConfig = LogprobsConfig()

    @model_validator(mode="after")
    def _partitioned_where_offloaded(self) -> Self:
        for key, lowest in (("offload_optimizer", 1), ("offload_parameters", 3)):
            if getattr(self, key) and self.zero_stage < lowest:
                raise ValueError(
                    f"learner.{key}=true contradicts learner.zero_stage={self.zero_stage}: what is "
                    f"not partitioned stays where it is; set zero_stage to {lowest} or more"
                )
        return self
