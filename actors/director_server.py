"""One version of a director behind its own engine: turns as they grow, and OpenAI's API."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from actors.chat_server import ChatServer
from actors.engine_death import alive
from actors.sampling_params import sampling_params
from wfr.config import Config
from wfr.protocols import Sample, SamplingRequest
from wfr.trajectory import VersionSpan


class DirectorServer(ChatServer):
    """A chat server whose engine also samples from token ids; `application` is set by `open`."""

    application: Any

    def __init__(self, config: Config, path: str, version: int, *, device: str) -> None:
        """Start an engine for the checkpoint in `path`."""
        sampler = config.sampler
        engine: dict[str, Any] = {
            "dtype": config.model.dtype,
            "max_model_len": config.model.max_length,
            "max_num_seqs": sampler.max_num_seqs,
            "tensor_parallel_size": sampler.tensor_parallel,
            "enable_prefix_caching": sampler.prefix_cache,
            "seed": config.run.seed,
            "logprobs_mode": "processed_logprobs",
        }
        if device == "cpu":
            os.environ["OMP_NUM_THREADS"] = str(sampler.threads)
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(sampler.kv_cache_gib)
        else:
            engine["gpu_memory_utilization"] = sampler.gpu_memory_utilization
        super().__init__(path, engine, device=device, name=config.serving.name)
        self.version = version

    async def open(self) -> None:
        """Make the application, and sample once, so that no request pays for the first time."""
        self.application = await super().asgi()
        await self.sample(SamplingRequest([0], 2, (), 1.0), lambda text: None)

    async def sample(self, request: SamplingRequest, on_text: Callable[[str], None]) -> Sample:
        """Sample one continuation; `on_text` gets its text as it grows, stop strings included.

        Where the caller is cancelled, so is the request in the engine. Raises PeerLostError where
        the engine has died.
        """
        from vllm.inputs.engine import tokens_input

        params = sampling_params(request, streamed=True)
        prompt = tokens_input(list(request.tokens))
        tokens: list[int] = []
        logprobs: list[float] = []
        reason = "length"
        with alive():
            async for output in self._engine.generate(prompt, params, uuid.uuid4().hex):
                part = output.outputs[0]
                tokens.extend(part.token_ids)
                flat: Any = part.logprobs
                logprobs.extend(flat.logprobs[start] for start in flat.start_indices)
                if part.text:
                    on_text(part.text)
                if output.finished:
                    reason = part.finish_reason or reason
        spans = (VersionSpan(0, len(tokens), self.version),) if tokens else ()
        return Sample(np.asarray(tokens, np.int32), np.asarray(logprobs, np.float32), spans, reason)


"""Tokens of a block of the prefix cache; vLLM's 128 are longer than short prompts."""
