"""The supervised start of a director: the tiny one learns the protocol, reading and copying.

Plain next-token training on scripted demonstrations, with the loss on the director's own tokens
only. Every few steps the demonstrations come from a freshly drawn world: a model of this size
memorises a fixed world instead of learning to copy from what it reads. Episodes of a journal can
take the place of the scripts (rejection sampling), for any director.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from learner import tiny
from learner.language import LANGUAGES, THINK_ACT, Language
from wfr.config import Config, ConfigError
from wfr.environments.canvas_demonstrations import edit_demonstrations
from wfr.tasks.demonstrations import Demonstration, demonstrate
from wfr.tasks.world import World
from wfr.trajectory import Trajectory

_WARMUP_STEPS = 50
_FINAL_LR = 0.05
_AVERAGED_STEPS = 50


@dataclasses.dataclass(frozen=True, slots=True)
class WarmstartResult:
    """What a warm start left: a Hugging Face directory, and what it took.

    Attributes:
        loss: mean over the last 50 steps, nats per token of the director.
        tokens: tokens of all demonstrations, padding left out.
    """

    path: Path
    steps: int
    loss: float
    tokens: int
    seconds: float

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.steps} steps, {self.tokens} tokens, loss {self.loss:.3f},"
            f" {self.seconds:.0f} s: {self.path}"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
    """ids int64 [B, T]; learned bool [B, T], true on the director's own tokens."""

    ids: torch.Tensor
    learned: torch.Tensor
    tokens: int


def warmstart(
    config: Config,
    out_dir: Path,
    progress: Callable[[int, float], None],
    episodes: Sequence[Trajectory] = (),
) -> WarmstartResult:
    """Train a director on demonstrations and save it with its tokenizer in `out_dir`.

    Without `episodes` it is the tiny director, and the demonstrations are scripted. With them they
    are the demonstrations, by their token ids, and the director is that of `model.path`, if any.
    `progress` is told each finished step's number and loss. The same seed and thread count give
    the same weights.

    Raises:
        ConfigError: the episodes were sampled with another tokenizer.
    """
    started = time.monotonic()
    if episodes:
        model, tokenizer = _director(config)
        batches = _recorded_batches(episodes, tokenizer, config)
    else:
        model, tokenizer = tiny.make(config)
        batches = _batches(tokenizer, config)
    with _threads(config.warmstart.threads):
        losses, tokens = _train(model, batches, config, progress)
    tiny.save(model, tokenizer, out_dir)
    recent = losses[-_AVERAGED_STEPS:]
    loss = sum(recent) / len(recent) if recent else math.nan
    return WarmstartResult(out_dir, len(losses), loss, tokens, time.monotonic() - started)


def demonstration_tokens(
    demonstrations: list[Demonstration],
    tokenizer: Qwen2Tokenizer,
    language: Language = THINK_ACT,
) -> list[tuple[list[int], list[bool]]]:
    """Token ids, and which of them the director wrote, exactly as an episode would build them."""
    texts = [part for each in demonstrations for part in language.parts(each.messages)]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows = []
    for demonstration in demonstrations:
        ids: list[int] = []
        learned: list[bool] = []
        for message in demonstration.messages:
            part = next(encoded)
            ids += part
            learned += [message.role == "assistant"] * len(part)
        rows.append((ids, learned))
    return rows


def _train(
    model: Any,
    batches: Iterator[_Batch],
    config: Config,
    progress: Callable[[int, float], None],
) -> tuple[list[float], int]:
    settings = config.warmstart
    model.train()
    # Eager attention in bfloat16 is twice as fast as SDPA at these sizes on a CPU.
    model.set_attn_implementation("eager")
    optimizers = _optimizers(model, settings.lr)
    factor = functools.partial(_lr_factor, steps=settings.steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in optimizers]
    losses, tokens = [], 0
    for step in range(settings.steps):
        batch = next(batches)
        loss = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(loss.item())
        tokens += batch.tokens
        progress(step + 1, losses[-1])
    return losses, tokens


def _optimizers(model: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding, norms and biases.

    Muon reaches the loss of AdamW alone in about 0.6 of the steps, each 1.2 times as long.
    """
    layers = [p for p in model.model.layers.parameters() if p.ndim == 2]
    matrices = {id(p) for p in layers}
    rest = [p for p in model.parameters() if id(p) not in matrices]
    return [
        torch.optim.Muon(layers, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def _loss(model: Any, batch: _Batch) -> torch.Tensor:
    """Mean negative log-likelihood of the director's tokens; only their logits are computed."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    targets = batch.learned[:, 1:]
    logits = F.linear(hidden[:, :-1][targets].float(), model.lm_head.weight)
    return F.cross_entropy(logits, batch.ids[:, 1:][targets])


def _lr_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to `_FINAL_LR` of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
    return min(1.0, (step + 1) / _WARMUP_STEPS) * (_FINAL_LR + (1 - _FINAL_LR) * cosine)


def _batches(tokenizer: Qwen2Tokenizer, config: Config) -> Iterator[_Batch]:
    """Endless batches; each world's demonstrations are grouped by length, then shuffled."""
    settings, language = config.warmstart, LANGUAGES[config.environment.kind]
    draw = 0
    while True:
        rng = random.Random(f"warmstart/{config.run.seed}/{draw}")
        count = settings.world_every * settings.batch
        demonstrations = _demonstrations(config, rng, count)
        rows = demonstration_tokens(demonstrations, tokenizer, language)
        rows.sort(key=lambda row: len(row[0]))
        parts = [rows[i : i + settings.batch] for i in range(0, count, settings.batch)]
        rng.shuffle(parts)
        yield from map(_collate, parts)
        draw += 1


def _director(config: Config) -> tuple[Any, Any]:
    """The director of `model.path`, or the untrained tiny one, and its tokenizer."""
    if config.model.path is None:
        return tiny.make(config)
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
    return model, tokenizer


def _recorded_batches(
    episodes: Sequence[Trajectory], tokenizer: Any, config: Config
) -> Iterator[_Batch]:
    """Endless batches of the episodes; each pass groups them by length anew, then shuffles."""
    for trajectory in episodes:
        _check_tokenizer(trajectory, tokenizer)
    rows = [part for trajectory in episodes for part in _contexts(trajectory)]
    rng = random.Random(f"warmstart/{config.run.seed}/episodes")
    size = config.warmstart.batch
    while True:
        rng.shuffle(rows)  # so that rows of one length do not always meet
        rows.sort(key=lambda row: len(row[0]))
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(parts)
        yield from map(_collate, parts)


def _contexts(trajectory: Trajectory) -> Iterator[tuple[list[int], list[bool]]]:
    """Ids, and which of them the director wrote, of each context of an episode."""
    bounds = dict.fromkeys((0, *trajectory.turn_context(), len(trajectory.tokens)))
    for start, end in itertools.pairwise(bounds):
        own = trajectory.turn_id[start:end] >= 0
        yield trajectory.tokens[start:end].tolist(), own.tolist()


def _check_tokenizer(trajectory: Trajectory, tokenizer: Any) -> None:
    """Token ids mean something to the tokenizer that made them only."""
    first = trajectory.tokens[trajectory.turn_id == 0].tolist()
    said = next(m.content for m in trajectory.messages if m.role == "assistant")
    known = max(trajectory.tokens.tolist()) < len(tokenizer)
    text = tokenizer.decode(first) if known else ""
    ends = (tokenizer.eos_token or "",) if known else ()
    for end in ends:
        text, said = text.removesuffix(end), said.removesuffix(end)
    if not known or "".join(text.split()) != "".join(said.split()):
        raise ConfigError(
            f"episode {trajectory.group_id}/{trajectory.sibling} of run {trajectory.run_id!r} was "
            f"sampled with another tokenizer: its first turn reads {text[:60]!r}, not "
            f"{said[:60]!r}; set model.path to the director of that run, or one of its family"
        )


def _demonstrations(config: Config, rng: random.Random, count: int) -> list[Demonstration]:
    """Demonstrations in a world that is drawn for them."""
    if config.environment.kind == "canvas":
        return edit_demonstrations(config.environment, config.tasks.world, rng, count)
    drawn = World.draw(config.tasks.world, rng)
    return [demonstrate(drawn, rng) for _ in range(count)]


def _collate(rows: list[tuple[list[int], list[bool]]]) -> _Batch:
    longest = max(len(ids) for ids, _ in rows)
    # What stands after the last token of a row cannot be seen by it, and is not learned.
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    learned = torch.tensor([own + [False] * (longest - len(own)) for _, own in rows])
    return _Batch(padded, learned, sum(len(ids) for ids, _ in rows))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
