"""A vLLM engine with OpenAI's HTTP interface, as an ASGI application inside this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from actors.cpu_engine import cpu_settings
from actors.scratch import Scratch


class ChatServer:
    """vLLM's own application around one engine; whoever hosts it does the listening."""

    def __init__(
        self, model: str, engine: Mapping[str, Any], *, device: str, name: str | None = None
    ) -> None:
        """Start the engine with the arguments `engine`, by vLLM's names; clients say `name`."""
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if device == "cpu":
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        cpu = cpu_settings(engine.get("tensor_parallel_size", 1)) if device == "cpu" else {}
        args = AsyncEngineArgs(model=model, disable_log_stats=True, **{**cpu, **engine})
        self._model = model
        self._name = name or model
        self._scratch = Scratch("wfr-chat-")
        with self._scratch.for_children():
            self._engine = AsyncLLM.from_engine_args(args)

    async def asgi(self) -> Any:
        """The application; it answers `/v1/chat/completions`, `/v1/models` and `/health`."""
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser: Any = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
        args = make_arg_parser(parser).parse_args(
            ["--model", self._model, "--served-model-name", self._name]
        )
        tasks = await self._engine.get_supported_tasks()
        application = build_app(args, tasks, self._engine.model_config)
        await init_app_state(self._engine, application.state, args, tasks)
        return application

    async def check_health(self) -> None:
        """Raise where the engine has died."""
        await self._engine.check_health()

    def shutdown(self) -> None:
        """Stop the engine and its processes."""
        self._engine.shutdown()
        self._scratch.close()
