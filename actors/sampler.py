"""The sampler: vLLM's asynchronous engine, token ids in, versioned tokens out."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from actors.cpu_engine import cpu_settings
from actors.engine_death import alive
from actors.places import Places
from actors.resend import sample_whole
from actors.sampling_params import sampling_params
from actors.scratch import Scratch
from wfr.config import Config
from wfr.protocols import PeerLostError, Sample, SamplingRequest
from wfr.trajectory import VersionSpan


class Sampler:
    """One vLLM engine. Continuous batching does the batching: callers just await their turns."""

    def __init__(self, config: Config, model_path: str, device: str, version: int = 0) -> None:
        """Start the engine on `device` (`cpu` or `cuda`) with the weights in `model_path`."""
        _set_environment(config, device)
        from vllm import AsyncEngineArgs
        from vllm.config import WeightTransferConfig
        from vllm.v1.engine.async_llm import AsyncLLM

        settings = config.sampler
        backend = transfer_backend(config, device)
        if config.weights.checksums:
            backend = f"checked_{backend}"
        transfer = WeightTransferConfig(backend=backend)
        args: dict[str, Any] = {
            "model": model_path,
            "dtype": config.model.dtype,
            "max_model_len": config.model.max_length,
            "max_num_seqs": settings.max_num_seqs,
            "tensor_parallel_size": settings.tensor_parallel,
            "enable_prefix_caching": settings.prefix_cache,
            "seed": config.run.seed,
            "logprobs_mode": "processed_logprobs",
            "weight_transfer_config": transfer,
            "disable_log_stats": True,
        }
        if device == "cpu":
            args |= cpu_settings(settings.tensor_parallel)
        else:
            args["gpu_memory_utilization"] = settings.gpu_memory_utilization
            args["enable_sleep_mode"] = settings.colocated
        self._scratch = Scratch("wfr-sampler-")
        with self._scratch.for_children():
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**args))
        self._version = version
        self._epoch = 0
        self._paused = False
        self._updating = False
        self._leaving = False
        self._holding = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._in_flight = settings.in_flight
        # What would only queue inside the engine waits here, so that its salt is still right when
        # the engine schedules it.
        self._places = Places(settings.max_num_seqs)

    async def warm_up(self, tokens: Sequence[int]) -> None:
        """Label the weights and sample once, so that no later request pays for the first one."""
        await self._engine.update_weight_version(str(self._version))
        await self.sample(SamplingRequest(tokens, 2, (), 1.0))

    async def sample(self, request: SamplingRequest) -> Sample:
        """Sample one continuation; it may span weight updates, and its spans say where.

        Raises:
            PeerLostError: the engine has died, or is leaving and has not begun with this request.
        """
        self._stay()
        async with self._places.hold(request.priority):
            self._stay()
            return await sample_whole(
                self._generate, request, self._text, leaving=lambda: self._leaving
            )

    async def leave(self, grace_s: float) -> None:
        """Take no further request, and return when none is left.

        Those that are being sampled have `grace_s` seconds to end. Then they are cut off, and give
        back what they have: whoever asked goes on with these tokens at another sampler. During an
        update or a sleep that takes longer, nothing can be cut off before its end.
        """
        self._leaving = True
        try:
            async with asyncio.timeout(grace_s):
                await self._places.empty()
        except TimeoutError:
            await self._awake.wait()
            with alive():
                await self._engine.pause_generation(mode="abort", clear_cache=False)
                await self._engine.resume_generation()
            await self._places.empty()

    async def doze(self) -> None:
        """Sleep: hold still, and free the memory of KV cache and weights where it is a GPU's.

        Turns being sampled go on after `wake`, with their KV computed again by the same weights.
        One that holds still for an update that has failed stays as it is: it must not sample when
        it wakes.
        """
        if self._paused:
            return
        self._holding.set()
        self._awake.clear()
        with alive():
            await self._engine.sleep(level=1, mode="keep")

    async def wake(self) -> None:
        """End a sleep, if it sleeps."""
        if self._awake.is_set():
            return
        with alive():
            await self._engine.wake_up()
        self._awake.set()
        self._holding.clear()

    async def init_transfer(self, init_info: Mapping[str, Any]) -> None:
        """Join the trainer's weight-transfer group."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        request = WeightTransferInitRequest(dict(init_info))
        with alive():
            await self._engine.init_weight_transfer_engine(request)

    async def begin_update(self) -> None:
        """Hold generation still; `sampler.in_flight` says what becomes of turns being sampled.

        An update that was begun before and never finished is replaced by this one.
        """
        await self.wake()  # whoever put it to sleep may have died
        self._holding.set()
        with alive():
            if self._updating:
                self._updating = False
                await self._engine.finish_weight_update()
            if not self._paused:
                # From here on new requests, with a new salt, wait behind the pause.
                self._epoch += 1
                mode, clear_cache = _PAUSES[self._in_flight]
                await self._engine.pause_generation(mode=mode, clear_cache=clear_cache)
                self._paused = True
            await self._engine.start_weight_update()
            self._updating = True

    async def receive_update(self, update_info: Mapping[str, Any]) -> None:
        """Receive the tensors that `update_info` names; returns when all are loaded."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        try:
            with alive():
                await self._engine.update_weights(WeightTransferUpdateRequest(dict(update_info)))
        except BaseException:
            self._updating = False  # the engine has ended the update
            raise

    async def prepare_update(self, checksums: Sequence[Any] | None = None) -> None:
        """Phase one: the weights are whole, checked, and installed; nothing samples from them yet.

        `checksums` are rows of (bucket, tensor, checksum) as the trainer sent them.
        """
        if checksums is not None:
            await self.receive_update({"checksums": checksums})
        with alive():
            await self._engine.finish_weight_update()
        self._updating = False

    async def commit_update(self, version: int) -> None:
        """Phase two: put the installed weights in force as `version` and go on generating."""
        with alive():
            await self._engine.update_weight_version(str(version))
            self._version = version
            await self._engine.resume_generation()
            self._paused = False
            self._holding.clear()

    async def watch(self, every_s: float = 0.5) -> None:
        """Return never; raise PeerLostError soon after the engine has died."""
        while not self._engine.errored:
            await asyncio.sleep(every_s)
        raise PeerLostError(f"the vLLM engine has died: {self._engine.dead_error}")

    def load(self) -> tuple[int, bool]:
        """Requests that it has, and whether it holds still for an update or sleeps."""
        return self._places.requests, self._holding.is_set()

    async def ping(self) -> None:
        """Return when the engine's own process has answered; PeerLostError where it is dead.

        During an update it has no time for that, and a deadline of its own: then this returns.
        """
        tasks = {
            asyncio.ensure_future(self._engine.is_sleeping()),
            asyncio.ensure_future(self._holding.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            with alive():
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()

    def shutdown(self) -> None:
        """Stop the engine and its processes."""
        self._engine.shutdown()
        self._scratch.close()

    def _stay(self) -> None:
        if self._leaving:
            raise PeerLostError("the sampler is leaving")

    async def _generate(self, request: SamplingRequest) -> Sample:
        """One request to the engine."""
        from vllm.inputs.engine import tokens_input

        params = sampling_params(request, streamed=False)
        # The salt keeps a prefix computed by older weights away from requests after an update.
        # As rendered input the request reaches the engine before anything else is sent there, a
        # pause above all; a raw prompt would go through a thread first, and its salt grow old.
        prompt = tokens_input(list(request.tokens), cache_salt=f"epoch-{self._epoch}")
        with alive():
            async for output in self._engine.generate(prompt, params, uuid.uuid4().hex):
                if output.finished:
                    return _sample(output.outputs[0])
        raise RuntimeError("the engine ended a request without finishing it")

    def _text(self, tokens: Sequence[int]) -> str:
        return self._engine.get_tokenizer().decode(tokens, skip_special_tokens=False)


_PAUSES: dict[str, tuple[Literal["keep", "wait", "abort"], bool]] = {
    "keep_kv": ("keep", False),
    "recompute_kv": ("keep", True),  # clearing preempts what runs: its KV is computed again
    "finish_turn": ("wait", False),
    "abort_resend": ("abort", False),
}
"""For each policy vLLM's way to pause, and whether all KV caches are cleared."""


def transfer_backend(config: Config, device: str) -> str:
    """Name of vLLM's weight-transfer engine: NCCL where each has a GPU of its own, else Gloo."""
    if config.weights.backend != "auto":
        return config.weights.backend
    return "nccl" if device == "cuda" and not config.sampler.colocated else "gloo"


def _set_environment(config: Config, device: str) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if device == "cpu":
        os.environ["OMP_NUM_THREADS"] = str(config.sampler.threads)
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.sampler.kv_cache_gib)


def _sample(output: Any) -> Sample:
    tokens = np.asarray(output.token_ids, np.int32)
    if not len(tokens):  # cut off before its first token
        return Sample(tokens, np.empty(0, np.float32), (), output.finish_reason)
    # Entry 0 of each position is the sampled token's; there are no others with logprobs=0.
    flat = output.logprobs
    logprob = np.asarray(flat.logprobs, np.float32)[np.asarray(flat.start_indices, np.int64)]
    spans = tuple(VersionSpan(s.start, s.end, int(s.version)) for s in output.weight_versions or ())
    return Sample(tokens, logprob, spans, output.finish_reason)
