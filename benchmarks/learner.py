"""One optimizer step on trajectories of very different lengths, three ways.

* packed: `learner.Learner.step` as a run calls it: reading record batches, advantages, planning,
  packing, forward, GSsPO, backward, DeepSpeed ZeRO-1, AdamW.
* padded: the same rows in the order they came, as many per micro-batch as fit the same number of
  tokens once each is padded to the longest; transformers' own attention with a mask, the same
  scoring head on the same policy tokens, the same loss, plain AdamW without DeepSpeed.
* bare: forward and backward of the model alone on the packed micro-batches, ready made: the same
  attention and scoring head, and the sum of the log-probabilities in the place of a loss.

Lengths are log-normal with σ = 1; tokens per second count real tokens, never padding. On a CPU in
float32 and one thread; seconds are processor time, which a busy machine distorts less, as every
side keeps its thread busy throughout. On a GPU in bfloat16 with a director of half a billion
parameters and flash attention, in seconds of the clock; memory bounds the padded side there, which
gets micro-batches of the same size. Its share of the GPU counts 6 operations per parameter and
token and 12 per layer, channel and pair of tokens that attend (half of a square), forward and
backward, over the rate of a large matrix product on the same GPU.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.harness import Result, at_least, figure, interleave, ratio
from cluster.ports import free_port
from learner.learner import Learner
from learner.objectives import policy_loss
from learner.packing import Row, denominators, pack, plan
from learner.policy import Policy, ScoringHead
from learner.tiny import build_model
from wfr.advantage import advantages
from wfr.columns import view
from wfr.config import Config, TinyModelConfig, parse_config
from wfr.schema import to_batch
from wfr.trajectory import Group, StopReason, Trajectory, Turn, TurnKind, VersionSpan

_CUDA = torch.cuda.is_available()
_DEVICE = "cuda" if _CUDA else "cpu"
_DTYPE = torch.bfloat16 if _CUDA else torch.float32
_SHAPE = TinyModelConfig(layers=4, hidden=256, intermediate=768, heads=4)
_VOCABULARY = 4096
_ATTENTION: Literal["sdpa", "flash"] = "flash" if _CUDA else "sdpa"
_MEDIAN, _LONGEST, _MAX_TOKENS = 150, 2048, 4096
if _CUDA:
    _SHAPE = TinyModelConfig(layers=24, hidden=896, intermediate=4864, heads=14)
    _VOCABULARY = 151_936
    _MEDIAN, _LONGEST, _MAX_TOKENS = 600, 8192, 16_384
_SIGMA = 1.0
_SIBLINGS = 8


def run(quick: bool) -> Result:
    """Compare on one machine with one thread each."""
    torch.set_num_threads(1)
    groups = 2 if quick else 8
    config = _config(groups)
    batches = _batches(groups)
    rows = _rows(batches, config)
    tokens = sum(map(len, rows))
    with _director() as path, _learner(config, path) as learner:
        padded = _Padded(path, rows, config)
        sides = {
            "packed": _Packed(learner, batches).step,
            "padded": padded.step,
            "bare": _Bare(path, rows, config).step,
        }
        timed = {name: _timed(step) for name, step in sides.items()}
        samples = interleave(timed, repeats=2 if quick else 7)
    rates = {side: [tokens / seconds for seconds in times] for side, times in samples.items()}
    figures = [
        ratio("packed ÷ padded, tokens/s", rates["packed"], rates["padded"], at_least(2)),
        ratio("packed step ÷ bare model", rates["packed"], rates["bare"], at_least(0.9)),
        *(figure(f"{side}, tokens/s", rate, "1/s") for side, rate in rates.items()),
    ]
    if _CUDA:
        share = [_operations(rows) / seconds / _product_rate() for seconds in samples["packed"]]
        figures.append(figure("packed step, share of the GPU's product rate", share, ""))
    return Result(
        figures,
        setup={
            "model": _SHAPE.model_dump() | {"vocabulary": _VOCABULARY},
            "trajectories": len(rows),
            "lengths": {
                "tokens": tokens,
                "median": float(np.median([len(row) for row in rows])),
                "longest": max(map(len, rows)),
            },
            "padding": f"{padded.size / tokens:.2f} places per token",
            "micro-batch": config.learner.max_tokens,
            "objective": "gsspo without a reference",
            "threads": 1,
            "device": torch.cuda.get_device_name() if _CUDA else "cpu",
            "dtype": config.learner.dtype,
            "attention": config.learner.attention,
        },
        peers=("torch", "transformers", "deepspeed"),
    )


def _timed(step: Callable[[], None]) -> Callable[[], float]:
    """Processor seconds of this process, all threads; on a GPU seconds of the clock."""

    def seconds() -> float:
        clock = time.perf_counter if _CUDA else time.process_time
        started = clock()
        step()
        if _CUDA:
            torch.cuda.synchronize()
        return clock() - started

    return seconds


def _operations(rows: Sequence[Row]) -> float:
    """Floating-point operations of one step, forward and backward."""
    hidden, layers = _SHAPE.hidden, _SHAPE.layers
    layer = 4 * hidden**2 + 3 * hidden * _SHAPE.intermediate
    inside = 6 * layers * layer * sum(map(len, rows))
    scored = 6 * hidden * _VOCABULARY * sum(int((row.turn_id >= 0).sum()) for row in rows)
    return inside + scored + 6 * layers * hidden * sum(len(row) ** 2 for row in rows)


def _product_rate() -> float:
    """Operations per second of a product of 8,192 × 8,192 matrices in bfloat16."""
    size = 8192
    left, right = torch.randn(2, size, size, device=_DEVICE).bfloat16()
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def _config(groups: int) -> Config:
    return parse_config(
        {
            "model": {"max_length": _LONGEST},
            "objective": {"preset": "gsspo", "kl_coef": 0.0},
            "buffer": {"max_lag": 1000},  # the same data at every repeat grows old
            "train": {"groups_per_batch": groups},
            "learner": {
                "lr": 1e-5,
                "zero_stage": 1,
                "max_tokens": _MAX_TOKENS,
                "attention": _ATTENTION,
                "dtype": str(_DTYPE).removeprefix("torch."),
            },
        }
    )


def _batches(groups: int) -> list[pa.RecordBatch]:
    rng = np.random.default_rng(0)
    made = []
    for group in range(groups):
        lengths = np.exp(rng.normal(np.log(_MEDIAN), _SIGMA, _SIBLINGS)).astype(int)
        members = [
            _trajectory(str(group), sibling, int(length), rng)
            for sibling, length in enumerate(lengths.clip(24, _LONGEST))
        ]
        made.append(to_batch(Group(str(group), f"task-{group}", 0, members)))
    return made


def _trajectory(group: str, sibling: int, length: int, rng: np.random.Generator) -> Trajectory:
    """A prompt, and turns that are each followed by an observation of the same length."""
    edges = np.linspace(0, length, 2 * int(rng.integers(1, 5)) + 1).astype(int)
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))[1::2]
    turn_id = np.full(length, -1, np.int16)
    for turn, (start, end) in enumerate(spans):
        turn_id[start:end] = turn
    ends = [start for start, _ in spans[1:]] + [length]
    return Trajectory(
        run_id="benchmark",
        task_id=f"task-{group}",
        group_id=group,
        sibling=sibling,
        tokens=rng.integers(0, _VOCABULARY, length).astype(np.int32),
        turn_id=turn_id,
        behaviour_logprob=np.where(turn_id >= 0, -8.3, 0).astype(np.float32),
        version_spans=[VersionSpan(start, end, 0) for start, end in spans],
        turns=[
            Turn(start, end, until, TurnKind.TOOL, "stop", "Search")
            for (start, end), until in zip(spans, ends, strict=True)
        ],
        messages=[],
        stop_reason=StopReason.ANSWERED,
        reward=float(sibling % 2),
    )


def _rows(batches: Sequence[pa.RecordBatch], config: Config) -> list[Row]:
    groups = [view(batch) for batch in batches]
    compared = advantages(groups, config.objective.advantage)
    return [
        Row.of(episode, float(value), 0)
        for group, advantage in zip(groups, compared, strict=True)
        for episode, value in zip(group.trajectories, advantage.values, strict=True)
    ]


@contextlib.contextmanager
def _director() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as path:
        build_model(_SHAPE, _VOCABULARY, 1).save_pretrained(path)
        yield path


@contextlib.contextmanager
def _learner(config: Config, path: str) -> Iterator[Learner]:
    learner = Learner(config, path, init_method=f"tcp://127.0.0.1:{free_port()}")
    try:
        yield learner
    finally:
        learner.close()


class _Packed:
    """A learner that trains on the same batch again and again."""

    def __init__(self, learner: Learner, batches: Sequence[pa.RecordBatch]) -> None:
        self._learner, self._batches = learner, batches
        self._version = 0

    def step(self) -> None:
        self._learner.step(self._version, *self._batches)
        self._version += 1


class _Bare:
    """The model alone, on micro-batches that are packed already."""

    def __init__(self, path: str, rows: Sequence[Row], config: Config) -> None:
        self._policy = Policy(_load(path), attention=_ATTENTION)
        (mine,) = plan(rows, ranks=1, max_tokens=config.learner.max_tokens)
        self._batches = [pack([rows[index] for index in indices]).to(_DEVICE) for indices in mine]

    def step(self) -> None:
        for batch in self._batches:
            logp: Tensor = self._policy(**batch.inputs)[0].sum()
            logp.backward()  # type: ignore[no-untyped-call]
        self._policy.zero_grad()


class _Padded:
    """The textbook step: rows of a micro-batch side by side, each as long as the longest."""

    def __init__(self, path: str, rows: Sequence[Row], config: Config) -> None:
        self._model = _load(path)
        self._model.set_attn_implementation("sdpa")
        self._model.lm_head = ScoringHead(self._model.lm_head)
        self._config = config
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5, fused=True)
        self._denominators = denominators(rows)
        self._micro_batches = list(_side_by_side(rows, config.learner.max_tokens))
        self.size = sum(len(part) * max(map(len, part)) for part in self._micro_batches)

    def step(self) -> None:
        for rows in self._micro_batches:
            self._loss(rows).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _loss(self, rows: Sequence[Row]) -> Tensor:
        ids, inside, turn_id, behaviour = (_pad(rows, *column) for column in _COLUMNS)
        states = self._model.model(
            input_ids=ids, attention_mask=inside, use_cache=False
        ).last_hidden_state
        written = turn_id[:, 1:] >= 0
        scored, entropy = self._model.lm_head(states[:, :-1][written], ids[:, 1:][written])
        row_id = torch.arange(len(rows), device=_DEVICE)[:, None].expand_as(written)[written]
        return policy_loss(
            logp=scored,
            proximal_logp=scored.detach(),
            behaviour_logp=behaviour[:, 1:][written],
            advantage=torch.tensor([row.advantage for row in rows], device=_DEVICE),
            turn_id=turn_id[:, 1:][written],
            row_id=row_id,
            config=self._config.objective,
            denominators=self._denominators,
            entropy=entropy,
        ).loss


_COLUMNS: tuple[tuple[Any, torch.dtype, int], ...] = (
    (lambda row: row.tokens, torch.int64, 0),
    (lambda row: np.ones(len(row)), torch.int64, 0),
    (lambda row: row.turn_id, torch.int64, -1),
    (lambda row: row.behaviour_logp, torch.float32, 0),
)


def _pad(rows: Sequence[Row], read: Any, dtype: torch.dtype, filler: int) -> Tensor:
    parts = [torch.tensor(read(row), dtype=dtype) for row in rows]
    padded: Tensor = torch.nn.utils.rnn.pad_sequence(parts, True, filler)
    return padded.to(_DEVICE)


def _side_by_side(rows: Sequence[Row], max_tokens: int) -> Iterator[list[Row]]:
    """Rows in order, as many at a time as fit `max_tokens` when padded."""
    part: list[Row] = []
    for row in rows:
        if part and (len(part) + 1) * max(len(row), *map(len, part)) > max_tokens:
            yield part
            part = []
        part.append(row)
    yield part


def _load(path: str) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=_DTYPE)
    return model.to(_DEVICE)
