"""What a run takes from a machine that hosts all of it: memory, shared memory, disk.

Estimates, made to refuse a run that cannot fit rather than to be exact. The constants are what
single processes held (proportional set size) on a machine without a GPU: Ray with its dashboard
0.7 GiB and the driver 0.1; a vLLM engine 1.4 in its three processes besides KV cache and weights; a
rollout worker 0.2 and a learner rank 0.25 after their imports. Each is rounded up for what the
process does afterwards.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from wfr.config import Config

GIB, MIB = 1 << 30, 1 << 20

_BASE = 1.25 * GIB
_SAMPLER = 1.5 * GIB
_WORKER = 0.5 * GIB
_RANK = 1.0 * GIB

_LEARNING_BYTES = 16
"""Per parameter, all ranks together: float32 master weight, gradient and two Adam moments."""
_FROZEN_BYTES = 4
"""Per parameter under LoRA, whose own are few: float32."""
_TRAJECTORY_BYTES = 32
"""Per token: ids, turn ids and log-probabilities are 10 bytes, the rest is text."""
_STORED_COPIES = 2
"""A group may lie in the store as it was added and as part of a batch."""
_SMALLEST_STORE = 256 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a run needs on one machine."""

    memory: int
    shared_memory: int
    disk: int


def footprint(config: Config, *, gpu: bool) -> Footprint:
    """Estimate for `config` with every process on this machine; `gpu`: models live on GPUs."""
    parameters = parameter_count(config)
    group = config.rollout.group_size * config.model.max_length * _TRAJECTORY_BYTES
    return Footprint(
        memory=int(_processes(config) + (0 if gpu else _models(config, parameters))),
        shared_memory=max(_SMALLEST_STORE, _STORED_COPIES * config.slots * group),
        disk=_checkpoints(config) * parameters * _LEARNING_BYTES
        + config.train.steps * config.train.groups_per_batch * group,
    )


def parameter_count(config: Config) -> int:
    """Parameters of the director: from its shape, or from the size of its two-byte weights."""
    if config.model.path is not None:
        return sum(file.stat().st_size for file in weight_files(Path(config.model.path))) // 2
    tiny = config.model.tiny
    per_layer = 4 * tiny.hidden**2 + 3 * tiny.hidden * tiny.intermediate
    return tiny.layers * per_layer + 1024 * tiny.hidden


def weight_files(path: Path) -> list[Path]:
    """Files of a checkpoint that hold weights: safetensors, else PyTorch's own format."""
    return sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))


def available_memory(host: int, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken: `host`, or less where a container has a limit (cgroup v2)."""
    limit = _read(cgroup / "memory.max")
    if not limit.isdigit():
        return host
    used = int(_read(cgroup / "memory.current") or 0)
    stat = dict(line.split() for line in _read(cgroup / "memory.stat").splitlines())
    return min(host, int(limit) - used + int(stat.get("inactive_file", 0)))


def has_gpu() -> bool:
    """True where NVIDIA's driver is loaded; asks the file system, not torch."""
    return os.path.exists("/dev/nvidiactl")


def _processes(config: Config) -> float:
    return (
        _BASE
        + config.sampler.count * _SAMPLER
        + config.rollout.workers * _WORKER
        + config.learner.ranks * _RANK
    )


def _models(config: Config, parameters: int) -> float:
    sampled = parameters * (4 if config.model.dtype == "float32" else 2)
    return (
        config.sampler.count * (sampled + config.sampler.kv_cache_gib * GIB)
        + parameters * _learning_bytes(config)
        + config.learner.ranks * config.learner.snapshots.mib * MIB
    )


def _learning_bytes(config: Config) -> int:
    """Per parameter, all ranks together; the reference of LoRA is the model without it."""
    if config.learner.lora.rank:
        return _FROZEN_BYTES
    return _LEARNING_BYTES + (4 * config.learner.ranks if config.objective.kl_coef else 0)


def _checkpoints(config: Config) -> int:
    every = config.train.checkpoint_every
    written = 1 + (config.train.steps // every if every else 0)
    keep, for_good = config.checkpoints.keep, config.checkpoints.keep_every
    if keep is None:
        return written
    return min(written, keep + 2 + (config.train.steps // for_good if for_good else 0))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
