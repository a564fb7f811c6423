"""Optimizer state by parameter: what each rank holds, in a form that knows neither ranks nor ZeRO.

A rank writes the pieces of master weights and Adam moments that it holds, each with the name of its
parameter and where in it the piece begins. Whoever reads puts pieces together, so the number of
ranks and the ZeRO stage may change between the two, and nothing is rounded on the way.

DeepSpeed's universal checkpoint could do the same, but here it is the longer way: it converts, in
a pass of its own, what `save_checkpoint` has written while training stood still; and it knows no
stage 0. Pieces are copied in memory as fast as memory goes and written while training goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")


class StateError(RuntimeError):
    """A checkpoint's optimizer state is not there, not whole, or of another model."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A part of one parameter whose master weights this rank holds.

    Attributes:
        name: of the parameter.
        parameter: itself, whose own values may be rounded or a partition.
        start: elements of the flattened parameter before the piece.
        size: elements of the piece.
        key: the optimizer's tensor that it lies in, under which its moments are found.
        at: elements of the flattened `key` before it.
    """

    name: str
    parameter: Any
    start: int
    size: int
    key: Tensor
    at: int

    def within(self, flat: Tensor) -> Tensor:
        """The piece of a tensor that is laid out as `key`; a view [size]."""
        return flat.detach().view(-1).narrow(0, self.at, self.size)


def pieces(module: nn.Module, optimizer: Any, rank: int, ranks: int) -> Iterator[Piece]:
    """What this rank holds, whatever optimizer DeepSpeed has wrapped the parameters in.

    Below stage 1 every rank holds everything.
    """
    trainable: dict[str, Any] = {
        name: p for name, p in module.named_parameters() if p.requires_grad
    }
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO-3: equal shares, padded
        for name, p in trainable.items():
            group, at, share = optimizer.grad_position[optimizer.get_param_id(p)]
            size = min(share, p.ds_numel - share * rank)
            if size > 0:
                key = optimizer.fp32_partitioned_groups_flat[group]
                yield Piece(name, p, share * rank, size, key, at)
        return
    masters = _flat_masters(optimizer)
    whole = _whole_masters(optimizer)
    for name, p in trainable.items():
        if masters is None:
            yield Piece(name, p, 0, p.numel(), whole.get(id(p), p), 0)
        elif (mapping := p._hp_mapping) is not None:  # ZeRO-1 and 2: shares of all in one row
            inside, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
            key = masters[mapping.param_group_index]
            yield Piece(name, p, inside.start, inside.numel, key, flat.start)


def _flat_masters(optimizer: Any) -> Sequence[Tensor] | None:
    """This rank's share of each group's masters, if they are shared out."""
    for name in ("single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return getattr(optimizer, name)  # type: ignore[no-any-return]
    return None


def _whole_masters(optimizer: Any) -> dict[int, Tensor]:
    """Masters of stage 0 by the identity of their parameter; none where it is its own master."""
    if not hasattr(optimizer, "fp32_groups"):
        return {}
    groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {id(p): m for group in groups for p, m in zip(*group, strict=True)}


def states(optimizer: Any) -> MutableMapping[Tensor, dict[str, Any]]:
    """State of torch's optimizer inside whatever DeepSpeed has wrapped it in."""
    return getattr(optimizer, "optimizer", optimizer).state  # type: ignore[no-any-return]


def copied(held: Sequence[Piece], state: Mapping[Tensor, dict[str, Any]]) -> dict[str, Tensor]:
    """Copies in CPU memory of masters and moments, float32 [size] each, as `kind/name`."""
    copies = {}
    for piece in held:
        copies[f"{MASTER}/{piece.name}"] = _copy(piece.within(piece.key))
        for kind in MOMENTS:
            if kind in state.get(piece.key, ()):  # before the first step there is none
                copies[f"{kind}/{piece.name}"] = _copy(piece.within(state[piece.key][kind]))
    return copies


def _copy(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float32, copy=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of a checkpoint: CPU copies, so that training may go on.

    Attributes:
        rank: whose it is.
        ranks: how many there are.
        steps: optimizer steps taken.
        tensors: `copied`; besides, states of random number generators, uint8.
        starts: where in its parameter each piece begins.
    """

    rank: int
    ranks: int
    steps: int
    tensors: Mapping[str, Tensor]
    starts: Mapping[str, int]

    def write(self, directory: Path) -> Path:
        """Write it to `directory`, which is there; returns the file."""
        about = {
            "ranks": str(self.ranks),
            "steps": str(self.steps),
            "starts": json.dumps(dict(self.starts)),
        }
        path = directory / _FILE.format(self.rank)
        save_file(dict(self.tensors), path, about)
        return path


class SavedState:
    """The shares of all ranks in one directory, as one state; reads no more than it is asked for.

    Attributes:
        ranks: how many wrote it.
        steps: optimizer steps taken.
    """

    def __init__(self, directory: Path) -> None:
        """Open all shares.

        Raises:
            StateError: there is none, or not all of them are there.
        """
        self._directory = directory
        first = directory / _FILE.format(0)
        if not first.exists():
            raise StateError(f"{directory}: holds no optimizer state to go on from")
        about = _about(first)
        self.ranks, self.steps = int(about["ranks"]), int(about["steps"])
        paths = [directory / _FILE.format(rank) for rank in range(self.ranks)]
        absent = [path.name for path in paths if not path.exists()]
        if absent:
            raise StateError(f"{directory}: lacks {', '.join(absent)} of {self.ranks} ranks")
        self._files: list[Any] = [safe_open(path, framework="pt") for path in paths]
        self._where: dict[str, list[tuple[int, Any]]] = {}
        for file in self._files:
            for name, start in json.loads(file.metadata()["starts"]).items():
                self._where.setdefault(name, []).append((start, file))

    def read(self, kind: str, name: str, start: int, size: int) -> Tensor:
        """Elements `start` to `start + size` of a flattened parameter's state: float32 [size].

        Raises:
            StateError: the shares do not hold all of them.
        """
        found = torch.empty(size)
        missing = size
        for first, file in self._where.get(name, ()):
            held = file.get_slice(f"{kind}/{name}")
            begin = max(start, first)
            end = min(start + size, first + held.get_shape()[0])
            if begin < end:
                found[begin - start : end - start] = held[begin - first : end - first]
                missing -= end - begin
        if missing:
            raise StateError(
                f"{self._directory}: holds {size - missing} of {size} elements of {name}; it is "
                "of another model, or learner.lora has changed"
            )
        return found

    def random(self, rank: int) -> dict[str, Tensor]:
        """States of random number generators, uint8; more ranks than there were share them."""
        file = self._files[rank % self.ranks]
        return {name: file.get_tensor(name) for name in file.keys() if "/" not in name}  # noqa: SIM118

    def fill(self, held: Sequence[Piece], state: MutableMapping[Tensor, dict[str, Any]]) -> None:
        """Put what is saved into masters and moments."""
        for piece in held:
            saved = self.read(MASTER, piece.name, piece.start, piece.size)
            piece.within(piece.key).copy_(saved)
            if not self.steps:
                state.pop(piece.key, None)
                continue
            moments = state[piece.key]
            for kind in MOMENTS:
                if kind not in moments:
                    moments[kind] = torch.zeros_like(piece.key, requires_grad=False)
                saved = self.read(kind, piece.name, piece.start, piece.size)
                piece.within(moments[kind]).copy_(saved)
            # torch's fused AdamW keeps its count of steps beside the weights.
            moments["step"] = torch.tensor(float(self.steps), device=piece.key.device)


_FILE = "rank-{}.safetensors"


def _about(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())
